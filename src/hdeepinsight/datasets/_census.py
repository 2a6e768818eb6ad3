"""Labelled cells of the CZ CELLxGENE Census, as a reference to train on."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight._errors import need_extra
from hdeepinsight._keys import ONTOLOGY_KEY
from hdeepinsight.datasets._errors import DatasetError
from hdeepinsight.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["census"]

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
    client = need_extra("cellxgene_census", "datasets", "hdi.datasets.census")
    with _opened(client, version, uri) as opened:
        obs = client.get_obs(
            opened,
            organism,
            value_filter=" and ".join(filter(None, conditions)),
            column_names=[_ROW, ONTOLOGY_KEY],
        )
        rows = _drawn(obs, terms, max_per_type, np.random.default_rng(seed))
        adata = client.get_anndata(
            opened,
            organism,
            X_name="raw",
            obs_coords=rows.tolist(),
            obs_column_names=list(_OBS),
            var_column_names=[_GENE, _SYMBOL],
        )
    return _named(adata)


def _terms_of(cell_types: Taxonomy | Iterable[str]) -> list[str]:
    listed = cell_types.ontology_ids.values() if isinstance(cell_types, Taxonomy) else cell_types
    terms = list(dict.fromkeys(listed))
    odd = [term for term in terms if not _TERM.fullmatch(str(term))]
    if odd or not terms:
        raise ValueError(
            f"Found {odd[:3] or 'no cell types'} among cell_types. Valid are one or more Cell "
            "Ontology ids such as 'CL:0000236', or a taxonomy that has them. Look names up at "
            "https://www.ebi.ac.uk/ols4/ontologies/cl."
        )
    return terms


def _one_of(column: str, values: str | Sequence[str] | None) -> str:
    """Condition on a column in the query language of TileDB-SOMA; empty for no values."""
    if values is None:
        return ""
    listed = [values] if isinstance(values, str) else list(values)
    odd = [value for value in listed if not value or set(value) & set("'\"\\")]
    if odd or not listed:
        raise ValueError(
            f"Found {odd or 'no value'} for {column}. Valid are values without quotes, or None for "
            "all. See the values at https://cellxgene.cziscience.com/datasets."
        )
    return f"{column} in {listed}"


def _opened(client: Any, version: str, uri: str | None) -> Any:
    place = {"census_version": version} if uri is None else {"uri": uri}
    try:
        return client.open_soma(**place)
    except OSError as error:
        raise DatasetError(
            f"The Census ({uri or version}) could not be opened ({type(error).__name__}). Valid is "
            "a connection to https://census.cellxgene.cziscience.com, or uri=... of a copy. "
            "Connect and try again."
        ) from None


def _drawn(
    obs: pd.DataFrame, terms: list[str], max_per_type: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of the Census, at most so many of each term, in ascending order."""
    found = obs[ONTOLOGY_KEY].astype(str).to_numpy()
    rows = obs[_ROW].to_numpy(dtype=np.int64)
    order = np.argsort(rows)  # the draw does not depend on the order that the Census answers in
    found, rows = found[order], rows[order]
    drawn = [rng.permutation(rows[found == term])[:max_per_type] for term in terms]
    absent = [term for term, cells in zip(terms, drawn, strict=True) if not len(cells)]
    if len(absent) == len(terms):
        raise ValueError(
            f"The Census has no cell of {len(terms)} cell types with these values of tissue, "
            "disease and assay. Valid are values that it has, or None. Ask for more."
        )
    if absent:
        logger.warning("The Census has no such cells of %s.", ", ".join(absent))
    return np.sort(np.concatenate(drawn))


def _named(adata: AnnData) -> AnnData:
    """Name cells by their row of the Census, and genes by their Ensembl ids."""
    adata.obs_names = adata.obs[_ROW].astype(str).to_numpy()
    adata.var_names = adata.var[_GENE].astype(str).to_numpy()
    adata.obs_names.name = adata.var_names.name = None
    return adata
