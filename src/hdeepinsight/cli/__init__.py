"""The command line: ``hdeepinsight train | annotate | evaluate | info | demo``."""

from hdeepinsight.cli._app import app

__all__ = ["app"]
