"""What is known of common cell types: their name in the Cell Ontology, and markers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class CellType(NamedTuple):
    """What is known of a cell type of the Cell Ontology.

    Attributes
    ----------
    ontology_id
        Its id, such as ``"CL:0000625"``.
    name
        Its name in the ontology.
    definition
        What it is, in a sentence.
    markers
        Genes by which it is commonly recognised (human symbols), the best known first.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.tl.cell_type("CL:0000236").name
    'B cell'
    """

    ontology_id: str
    name: str
    definition: str
    markers: tuple[str, ...]

    @property
    def link(self) -> str:
        """Address of the term, which leads to the ontology."""
        return f"http://purl.obolibrary.org/obo/{self.ontology_id.replace(':', '_')}"


@cache
def _cell_types() -> Mapping[str, CellType]:
    text = (files("hdeepinsight.taxonomy") / "cell_types.json").read_text(encoding="utf-8")
    return {
        term: CellType(term, entry["name"], entry["definition"], tuple(entry["markers"]))
        for term, entry in json.loads(text)["types"].items()
    }


def cell_type(ontology_id: str) -> CellType | None:
    """Return name, definition and common markers of a Cell Ontology term.

    Parameters
    ----------
    ontology_id
        Such as ``"CL:0000625"``; ``taxonomy.ontology_ids`` has those of a taxonomy.

    Returns
    -------
    The cell type; ``None`` for a term that the package has nothing about. Known are the types of
    ``Taxonomy.immune()`` and of the bundled model.

    Notes
    -----
    The table is our selection of markers in common use, not a measurement; the sources are named in
    the file. Definitions are in our own words.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.tl.cell_type("CL:0000625").markers[:2]
    ('CD8A', 'CD8B')
    """
    return _cell_types().get(ontology_id)
