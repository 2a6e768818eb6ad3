"""From Cell Ontology ids of cells to a taxonomy, and to labels in one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from hdeepinsight.datasets._fetch import fetch

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["label_terms", "ontology_taxonomy"]


def ontology_taxonomy(
    terms: Iterable[str],
    *,
    groups: Iterable[str] = (),
    obo: str | os.PathLike[str] | None = None,
    on_multiple: Literal["raise", "first"] = "first",
) -> Taxonomy:
    r"""Derive the taxonomy of labelled cells from the Cell Ontology.

    Parameters
    ----------
    terms
        Cell Ontology ids of the cells, such as ``adata.obs["cell_type_ontology_term_id"]``; they
        may repeat, and ``"unknown"`` or missing ones are left out.
    groups
        Ids of broader classes that become nodes above, such as ``"CL:0000084"`` (T cell). They
        also decide which parent a type with several gets: the one that stands first.
    obo
        Cell Ontology as an OBO file; by default release 2026-06-08, which is fetched once.
    on_multiple
        As in :meth:`hdeepinsight.taxonomy.Taxonomy.from_cell_ontology`.

    Raises
    ------
    DatasetError
        If the ontology is to be fetched and cannot be.
    ImportError
        If pronto is not installed.
    ValueError
        If an id is not in the ontology, or has been retired there.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import hdeepinsight as hdi
    >>> terms = ["id: CL:0000084\nname: T cell", "id: CL:0000624\nname: CD4 T\nis_a: CL:0000084"]
    >>> text = "format-version: 1.2\n" + "".join(f"\n[Term]\n{term}\n" for term in terms)
    >>> with TemporaryDirectory() as folder:
    ...     obo = Path(folder) / "small.obo"
    ...     _ = obo.write_text(text)
    ...     hdi.datasets.ontology_taxonomy(["CL:0000624"], groups=["CL:0000084"], obo=obo).names
    ((), ('T cell',), ('T cell', 'CD4 T'))
    >>> terms = reference.obs["cell_type_ontology_term_id"]  # doctest: +SKIP
    >>> hdi.datasets.ontology_taxonomy(terms, groups=["CL:0000084"])  # doctest: +SKIP
    """
    from hdeepinsight.taxonomy import Taxonomy

    known = sorted({str(term) for term in terms if str(term).startswith("CL:")})
    path = fetch("cell_ontology") if obo is None else obo
    requested = list(dict.fromkeys([*groups, *known]))
    return Taxonomy.from_cell_ontology(path, requested, on_multiple=on_multiple)


def label_terms(terms: pd.Series, taxonomy: Taxonomy, *, unlabeled: str = "Unknown") -> pd.Series:
    """Name the node of every cell, from its Cell Ontology id.

    Parameters
    ----------
    terms
        Cell Ontology id of every cell.
    taxonomy
        Tree with such ids. Where two nodes have the same id, the deeper one is meant.
    unlabeled
        Label of cells whose id no node has.

    Returns
    -------
    Path of the node of every cell as text, ready for a label column of ``setup_anndata``.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> terms = pd.Series(["CL:0000895", "CL:0000624", "unknown"])
    >>> hdi.datasets.label_terms(terms, hdi.Taxonomy.immune()).tolist()
    ['CD4+T > CD4+T_naive', 'CD4+T', 'Unknown']
    """
    # Nodes come parents first: a deeper node takes the place of a broader one with the same id.
    nodes = {
        taxonomy.ontology_ids[p]: taxonomy.path_name(node)
        for node, p in enumerate(taxonomy.names)
        if p in taxonomy.ontology_ids
    }
    return terms.astype(object).map(lambda term: nodes.get(term, unlabeled))
