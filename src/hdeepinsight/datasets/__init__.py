"""Public references: cells of the CELLxGENE Census, and bundled blood cells."""

from hdeepinsight.datasets._blood import DemoData, demo, pbmc3k
from hdeepinsight.datasets._census import census, label_terms

__all__ = ["DemoData", "census", "demo", "label_terms", "pbmc3k"]
