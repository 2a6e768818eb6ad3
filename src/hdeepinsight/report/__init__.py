"""Report an annotation and the evidence for it as a self-contained HTML page."""

from hdeepinsight.report._page import write as write
