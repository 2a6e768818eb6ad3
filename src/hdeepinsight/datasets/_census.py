"""Labelled cells of the CZ CELLxGENE Census, and taxonomies from their Cell Ontology ids."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from hdeepinsight._errors import invalid, need_extra
from hdeepinsight._keys import ONTOLOGY_KEY
from hdeepinsight.datasets._fetch import DatasetError, fetch
from hdeepinsight.taxonomy import Taxonomy

_ROW, _GENE, _SYMBOL = "soma_joinid", "feature_id", "feature_name"
_OBS: Final = (
    *(_ROW, ONTOLOGY_KEY, "cell_type", "donor_id", "dataset_id", "assay"),
    *("suspension_type", "tissue_general", "disease"),
)
_TERM = re.compile(r"CL:\d{7}")
logger = logging.getLogger(__name__)


def census(
    cell_types: Taxonomy | Iterable[str],
    *,
    organism: str = "homo_sapiens",
    tissue: str | Sequence[str] | None = None,
    disease: str | Sequence[str] | None = "normal",
    assay: str | Sequence[str] | None = None,
    max_per_type: int = 1000,
    seed: int = 0,
    version: str = "stable",
    uri: str | None = None,
) -> AnnData:
    """Draw labelled cells from the CZ CELLxGENE Census.

    Parameters
    ----------
    cell_types
        Cell Ontology ids (``"CL:0000236"``) that cells may be labelled with, or a taxonomy with
        such ids, such as :meth:`hdeepinsight.taxonomy.Taxonomy.immune`.
    organism
        Organism, as the Census calls it.
    tissue, disease, assay
        Values of ``tissue_general``, ``disease`` and ``assay`` to keep; ``None`` keeps all.
    max_per_type
        Most cells of each id; they are drawn at random.
    seed
        Seed of the draw.
    version
        Release of the Census: ``"stable"``, ``"latest"`` or a date. Name a date to get the same
        cells again.
    uri
        Copy of the Census in your own place, instead of the public one.

    Returns
    -------
    Raw counts in ``X``, Ensembl ids in ``var_names`` and symbols in ``var["feature_name"]``;
    columns of ``obs`` as in the Census, among them ``donor_id`` and
    ``cell_type_ontology_term_id``. Every cell appears once, however many datasets hold it.

    Raises
    ------
    DatasetError
        If the Census cannot be reached.
    ImportError
        If ``cellxgene-census`` is not installed.
    ValueError
        If an id or a value is not valid, or no cell fits.

    Notes
    -----
    Every cell carries ``dataset_id``: cite the studies that the cells come from
    (https://cellxgene.cziscience.com), whose data are CC BY 4.0.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.immune()
    >>> ref = hdi.datasets.census(tax, tissue="blood", version="2025-01-30")  # doctest: +SKIP
    """
    terms = _terms_of(cell_types)
    kept = {"tissue_general": tissue, "disease": disease, "assay": assay, ONTOLOGY_KEY: terms}
    conditions = ["is_primary_data == True", *map(_one_of, kept, kept.values())]
    wanted = " and ".join(filter(None, conditions))
    client = need_extra("cellxgene_census", "datasets", "hdi.datasets.census")
    try:
        census = client.open_soma(**({"census_version": version} if uri is None else {"uri": uri}))
    except OSError as error:
        raise DatasetError(
            f"The Census ({uri or version}) could not be opened ({type(error).__name__}). It needs "
            "a connection to https://census.cellxgene.cziscience.com, or uri=... of a copy. "
            "Connect and try again."
        ) from None
    with census as opened:
        columns = [_ROW, ONTOLOGY_KEY]
        obs = client.get_obs(opened, organism, value_filter=wanted, column_names=columns)
        rows = _drawn(obs, terms, max_per_type, np.random.default_rng(seed))
        named = {"obs_column_names": list(_OBS), "var_column_names": [_GENE, _SYMBOL]}
        cells = {"X_name": "raw", "obs_coords": rows.tolist()}
        adata = client.get_anndata(opened, organism, **cells, **named)
    adata.obs_names = adata.obs[_ROW].astype(str).to_numpy()
    adata.var_names = adata.var[_GENE].astype(str).to_numpy()
    adata.obs_names.name = adata.var_names.name = None
    return adata


def _terms_of(cell_types: Taxonomy | Iterable[str]) -> list[str]:
    listed = cell_types.ontology_ids.values() if isinstance(cell_types, Taxonomy) else cell_types
    terms = list(dict.fromkeys(listed))
    odd = [term for term in terms if not _TERM.fullmatch(str(term))]
    if odd or not terms:
        expected = "Cell Ontology ids such as 'CL:0000236', or a taxonomy that has them"
        hint = "Look names up at https://www.ebi.ac.uk/ols4/ontologies/cl."
        raise invalid("cell_types", odd[:3] or "none", f"one or more {expected}", hint)
    return terms


def _one_of(column: str, values: str | Sequence[str] | None) -> str:
    """Condition on a column in the query language of TileDB-SOMA; empty for no values."""
    if values is None:
        return ""
    listed = [values] if isinstance(values, str) else list(values)
    odd = [value for value in listed if not value or set(value) & set("'\"\\")]
    if odd or not listed:
        hint = "See the values at https://cellxgene.cziscience.com/datasets."
        raise invalid(column, odd or "none", "values without quotes, or None for all", hint)
    return f"{column} in {listed}"


def _drawn(
    obs: pd.DataFrame, terms: list[str], max_per_type: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of the Census, at most so many of each term, in ascending order."""
    obs = obs.sort_values(_ROW)  # the draw does not depend on the order that the Census answers in
    found, rows = obs[ONTOLOGY_KEY].astype(str).to_numpy(), obs[_ROW].to_numpy(dtype=np.int64)
    drawn = {term: rng.permutation(rows[found == term])[:max_per_type] for term in terms}
    absent = [term for term in terms if not len(drawn[term])]
    if len(absent) == len(terms):
        raise ValueError(
            f"The Census has no cell of {len(terms)} cell types with these values of tissue, "
            "disease and assay. Name values that it has, or None for all."
        )
    if absent:
        logger.warning("The Census has no such cells of %s.", ", ".join(absent))
    return np.sort(np.concatenate(list(drawn.values())))


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
