"""One page that says what an annotation holds and how far to trust it, for people and machines."""

from hdeepinsight.report._page import write

__all__ = ["write"]
