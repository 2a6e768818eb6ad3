"""Public references: named files, CELLxGENE Census cells, and bundled blood cells."""

from hdeepinsight.datasets._blood import DemoData, demo, pbmc3k
from hdeepinsight.datasets._census import census, label_terms, ontology_taxonomy
from hdeepinsight.datasets._fetch import DatasetError, PublicFile, fetch, list_files

__all__ = [
    "DatasetError",
    "DemoData",
    "PublicFile",
    "census",
    "demo",
    "fetch",
    "label_terms",
    "list_files",
    "ontology_taxonomy",
    "pbmc3k",
]
