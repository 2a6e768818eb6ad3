"""Get public references: named files, cells of the CELLxGENE Census, and a small built-in one."""

from hdeepinsight.datasets._census import census
from hdeepinsight.datasets._errors import DatasetError
from hdeepinsight.datasets._fetch import fetch
from hdeepinsight.datasets._ontology import label_terms, ontology_taxonomy
from hdeepinsight.datasets._pbmc68k import DemoData, demo
from hdeepinsight.datasets._registry import PublicFile, list_files

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
]
