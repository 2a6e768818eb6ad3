"""The command line: ``hdeepinsight train | annotate | evaluate | info``."""

from hdeepinsight.cli._app import app as app
