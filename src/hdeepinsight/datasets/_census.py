"""Download labelled cells from the CZ CELLxGENE Census, and convert their Cell Ontology ids."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData

from hdeepinsight._errors import counted, examples, invalid, need_extra
from hdeepinsight._keys import ONTOLOGY_KEY
from hdeepinsight.taxonomy import Taxonomy, find_unlabeled

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
    """Download a random sample of labelled cells from the CZ CELLxGENE Census.

    Parameters
    ----------
    cell_types
        Cell Ontology ids (``"CL:0000236"``) of the cells, or a taxonomy with such ids, such as
        :meth:`hdeepinsight.taxonomy.Taxonomy.immune`.
    organism
        Name of the organism in the Census.
    tissue, disease, assay
        Values of ``tissue_general``, ``disease`` and ``assay`` to select; ``None`` for all.
    max_per_type
        Maximum number of cells per id, drawn at random.
    seed
        Random seed.
    version
        Release of the Census: ``"stable"``, ``"latest"`` or a date. Only a date is reproducible.
    uri
        Location of a copy of the Census to use instead of the public one.

    Returns
    -------
    anndata.AnnData
        Raw counts in ``X``, Ensembl ids in ``var_names`` and symbols in ``var["feature_name"]``;
        columns of ``obs`` as in the Census, including ``donor_id`` and
        ``cell_type_ontology_term_id``. Cells that are part of several datasets are included once.

    Raises
    ------
    OSError
        If the Census cannot be reached.
    ImportError
        If ``cellxgene-census`` is not installed.
    ValueError
        If an id or a value is invalid, or there are no such cells.

    Notes
    -----
    Cite the studies in the column ``dataset_id`` (https://cellxgene.cziscience.com). Their data are
    licensed under CC BY 4.0.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.immune()
    >>> ref = hdi.datasets.census(tax, tissue="blood", version="2025-01-30")  # doctest: +SKIP
    """
    listed = cell_types.ontology_ids.values() if isinstance(cell_types, Taxonomy) else cell_types
    terms = list(dict.fromkeys(listed))
    wrong = [term for term in terms if not _TERM.fullmatch(str(term))]
    if wrong or not terms:
        expected = "one or more Cell Ontology ids such as 'CL:0000236', or a taxonomy with ids"
        hint = "Look them up at https://www.ebi.ac.uk/ols4/ontologies/cl."
        raise invalid("cell_types", wrong[:3] or "none", expected, hint)
    selected = {"tissue_general": tissue, "disease": disease, "assay": assay, ONTOLOGY_KEY: terms}
    conditions = ["is_primary_data == True", *map(_condition, selected, selected.values())]
    value_filter = " and ".join(filter(None, conditions))
    client = need_extra("cellxgene_census", "datasets", "hdi.datasets.census")
    try:
        census = client.open_soma(**({"census_version": version} if uri is None else {"uri": uri}))
    except OSError as error:
        raise OSError(
            f"The Census ({uri or version}) could not be opened ({type(error).__name__}). It "
            "requires a connection to https://census.cellxgene.cziscience.com, or uri=... of a "
            "copy. Connect and try again."
        ) from None
    with census as opened:
        columns = [_ROW, ONTOLOGY_KEY]
        obs = client.get_obs(opened, organism, value_filter=value_filter, column_names=columns)
        rows = _draw_rows(obs, terms, max_per_type, np.random.default_rng(seed))
        named = {"obs_column_names": list(_OBS), "var_column_names": [_GENE, _SYMBOL]}
        cells = {"X_name": "raw", "obs_coords": rows.tolist()}
        adata = client.get_anndata(opened, organism, **cells, **named)
    adata.obs_names = adata.obs[_ROW].astype(str).to_numpy()
    adata.var_names = adata.var[_GENE].astype(str).to_numpy()
    adata.obs_names.name = adata.var_names.name = None
    return adata


def _condition(column: str, values: str | Sequence[str] | None) -> str:
    """Return a condition in the query language of TileDB-SOMA; empty for all values."""
    if values is None:
        return ""
    listed = [values] if isinstance(values, str) else list(values)
    wrong = [value for value in listed if not value or set(value) & set("'\"\\")]
    if wrong or not listed:
        hint = "The values are listed at https://cellxgene.cziscience.com/datasets."
        raise invalid(column, wrong or "none", "values without quotes, or None for all", hint)
    return f"{column} in {listed}"


def _draw_rows(
    obs: pd.DataFrame, terms: list[str], max_per_type: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw at most ``max_per_type`` rows of the Census per term, and sort them."""
    obs = obs.sort_values(_ROW)  # the Census does not return rows in a fixed order
    found, rows = obs[ONTOLOGY_KEY].astype(str).to_numpy(), obs[_ROW].to_numpy(dtype=np.int64)
    drawn = {term: rng.permutation(rows[found == term])[:max_per_type] for term in terms}
    absent = [term for term in terms if not len(drawn[term])]
    if len(absent) == len(terms):
        hint = "Pass other values of tissue, disease and assay, or None for all."
        raise ValueError(f"The Census has no cell of {len(terms)} cell types. {hint}")
    if absent:
        logger.warning("The Census has no such cells of the types %s.", ", ".join(absent))
    return np.sort(np.concatenate(list(drawn.values())))


def label_terms(terms: pd.Series, taxonomy: Taxonomy, *, unlabeled: str = "Unknown") -> pd.Series:
    """Convert Cell Ontology ids of cells to labels of a taxonomy.

    Parameters
    ----------
    terms
        Cell Ontology id of each cell.
    taxonomy
        Taxonomy with ids. If two nodes have the same id, the deeper one is used.
    unlabeled
        Label of cells whose id is not in the taxonomy.

    Returns
    -------
    pandas.Series
        Path of the node of each cell as text, a label column for ``setup_anndata``.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> terms = pd.Series(["CL:0000895", "CL:0000624", "unknown"])
    >>> hdi.datasets.label_terms(terms, hdi.Taxonomy.immune()).tolist()
    ['CD4+T > CD4+T_naive', 'CD4+T', 'Unknown']
    """
    # Ids are in node order, so that a deeper node replaces its ancestor with the same id.
    ids = taxonomy.ontology_ids.items()
    nodes = {term: taxonomy.path_name(taxonomy.resolve(path)) for path, term in ids}
    found = terms.astype(object).map(nodes)
    lost = terms[found.isna() & ~find_unlabeled(terms, unlabeled)]
    if len(lost):
        msg = f"{counted(len(lost), 'cell')} of {len(terms):,} get the label {unlabeled!r}, because"
        names = examples(lost.unique())
        hint = "Pass Cell Ontology ids, and a taxonomy that has them."
        msg += f" their terms are not among the ids of the taxonomy: {names}. {hint}"
        warnings.warn(msg, UserWarning, stacklevel=2)
    return found.fillna(unlabeled)
