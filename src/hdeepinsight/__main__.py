"""``python -m hdeepinsight`` is the command line."""

from hdeepinsight.cli import app

app(prog_name="hdeepinsight")
