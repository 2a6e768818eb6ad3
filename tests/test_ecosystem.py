"""The entry for the registry of the scverse ecosystem, as its schema 2.0 asks for it."""

import re
from pathlib import Path

import pytest
import yaml

ENTRY = Path(__file__).parents[1] / "docs" / "ecosystem" / "meta.yaml"
REQUIRED = {
    *("name", "description", "project_home", "documentation_home", "install", "license"),
    *("tags", "category", "contact", "primary_category"),
}
OPTIONAL = {"tutorials_home", "publications", "logo", "test_command", "language"}
#: Tags of the registry's vocabulary that could describe this package.
TAGS = {
    *("cell-type annotation", "data integration", "deep learning", "GPU acceleration"),
    *("multimodal", "scRNA-seq", "visualization"),
}


@pytest.fixture(scope="module")
def entry():
    return yaml.safe_load(ENTRY.read_text())


def test_the_entry_has_the_fields_of_the_schema(entry):
    assert set(entry) >= REQUIRED
    assert set(entry) <= REQUIRED | OPTIONAL
    assert entry["category"] == "ecosystem"
    assert entry["install"] == {"pypi": "hdeepinsight"}


def test_its_tags_are_of_the_vocabulary(entry):
    assert len(set(entry["tags"])) == len(entry["tags"]) > 0
    assert set(entry["tags"]) <= TAGS


def test_its_addresses_and_publications_are_well_formed(entry):
    assert all(re.fullmatch(r"10\.\d{4,9}/[-._;()/:A-Za-z0-9]+", d) for d in entry["publications"])
    pages = [entry[name] for name in ("documentation_home", "tutorials_home")]
    assert all(re.match(r"https://hdeepinsight\.readthedocs\.io/(page/.+)?$", p) for p in pages)
    page = entry["tutorials_home"].split("/page/")[1].replace(".html", ".md")
    assert (ENTRY.parents[1] / page).exists()
