"""Run the command line interface as ``python -m hdeepinsight``."""

from hdeepinsight.cli import app

app(prog_name="hdeepinsight")
