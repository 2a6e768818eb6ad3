"""The public call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from hdeepinsight.data import DataLike, InputError
from hdeepinsight.pp._stacas._config import StacasConfig
from hdeepinsight.pp._stacas._datasets import (
    Dataset,
    InputScale,
    Normalizer,
    Reading,
    open_dataset,
    shared_genes,
)
from hdeepinsight.pp._stacas._features import choose_features
from hdeepinsight.pp._stacas._labels import encode_labels
from hdeepinsight.pp._stacas._parts import NeighborSearch, Part, Settings
from hdeepinsight.pp._stacas._plan import integrate, project
from hdeepinsight.pp._stacas._result import CHUNK_SIZE, StacasResult
from hdeepinsight.pp._stacas._support import load_support

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["stacas"]

Data: TypeAlias = "DataLike | Sequence[DataLike]"


def stacas(
    adata_ref: Data,
    adata_query: Data | None = None,
    *,
    mode: Literal["project", "integrate"] = "project",
    config: StacasConfig | None = None,
    layer: str | None = None,
    input: InputScale = "counts",
    features: int | Sequence[str] = 1000,
    normalizer: Normalizer | None = None,
    labels_key: str | None = None,
    query_labels_key: str | None = None,
    taxonomy: Taxonomy | None = None,
    neighbors: NeighborSearch = "auto",
    chunk_size: int = CHUNK_SIZE,
    random_state: int = 0,
) -> StacasResult:
    r"""Remove batch effects by anchors: pairs of cells that are mutual nearest neighbours.

    Each query cell is moved by a locally weighted mean of the differences seen at the anchors.
    Nothing is written to the data.

    Parameters
    ----------
    adata_ref
        Reference: an AnnData or the path of an h5ad or zarr file, or several of them.
    adata_query
        Query, or several; may be left out with ``mode="integrate"``.
    mode
        ``"project"`` leaves the reference as it is and moves each query onto it, independently of
        other queries; several references are integrated first. ``"integrate"`` joins all datasets
        along a guide tree, of which one stays as it is.
    config
        Settings; see `StacasConfig`.
    layer
        Layer with the values, in every dataset; ``X`` by default.
    input
        ``"counts"``: raw counts, which become log values of counts per 10,000. ``"log"``: the layer
        holds log values already.
    features
        Genes to look for anchors with: how many, or their names.
    normalizer
        ``model.normalizer`` of a model: counts are normalised as the model does it, so that
        ``model.annotate(query, corrected=result)`` can use the result.
    labels_key
        Column of ``obs`` with cell types in the references; anchors between cells of different
        types are dropped. It is used only where the query has labels too.
    query_labels_key
        The same for the queries; missing ones are allowed.
    taxonomy
        Tree of cell types: labels at different depths of one path do not disagree.
    neighbors
        ``"exact"``, ``"approximate"``, or ``"auto"``: exact up to 20,000 cells.
    chunk_size
        Cells that are read at a time.
    random_state
        Seed of approximate neighbours and of ``label_mode="sample"``.

    Returns
    -------
    The result, which gives corrected values in chunks, the anchors and reports.

    Raises
    ------
    InputError
        If a matrix cannot be read as stated, no gene is in all datasets, or, with
        ``mode="integrate"``, no anchor joins two sides.
    KeyError
        If a label column is not there.
    ValueError
        If a label is not in the taxonomy, or the query is missing.

    Notes
    -----
    With anchors :math:`a` between reference cells :math:`r_a` and query cells :math:`q_a` and
    weights :math:`W` that fall with distance and with doubt, the corrected values are
    :math:`\hat Y_c = Y_c - \sum_a W_{ca} (Y_{q_a} - Y_{r_a})`. Method of STACAS
    {cite:p}`andreatta2021,andreatta2024` on anchors of {cite:p}`stuart2019`, written from the
    papers; `StacasConfig` and the user guide say where it differs.

    The correction depends on which cells are in the query, and can remove real differences. It is
    never a silent part of annotation.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> rng = np.random.default_rng(0)
    >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
    >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
    >>> result = hdi.pp.stacas(ref, query)
    >>> result.genes[:2], next(iter(result.corrected()))[1].shape
    (('GENE0', 'GENE1'), (150, 40))
    """
    config = config or StacasConfig()
    references, queries = _as_list(adata_ref), _as_list(adata_query)
    _check(mode, references, queries)
    _check_choice("input", input, InputScale)
    _check_choice("neighbors", neighbors, NeighborSearch)
    reading = Reading(layer, input, normalizer)
    datasets = _open_all(references, queries, reading)
    shared = shared_genes(datasets)
    chosen = choose_features(datasets, shared, features, config.blocked_genes)
    keys = [labels_key] * len(references) + [query_labels_key] * len(queries)
    settings = Settings(config, neighbors, random_state, taxonomy)
    parts = _parts(datasets, keys, chosen, settings, chunk_size)
    n = len(references)
    outcome = project(parts[:n], parts[n:]) if mode == "project" else integrate(parts)
    genes = chosen if config.genes_to_correct == "features" else shared
    return StacasResult(
        datasets=tuple(datasets),
        genes=tuple(genes),
        features=tuple(chosen),
        config=config,
        outcome=outcome,
        support=load_support(datasets, outcome.steps, genes, chunk_size),
        queries=tuple(one.name for one in datasets[n if mode == "project" else 0 :]),
        n_shared=len(shared),
    )


def _as_list(data: Data | None) -> list[DataLike]:
    if data is None:
        return []
    return list(data) if isinstance(data, list | tuple) else [data]


def _check_choice(name: str, value: str, choice: Any) -> None:
    valid = " and ".join(map(repr, get_args(choice)))
    if value not in get_args(choice):
        raise ValueError(f"Found {name}={value!r}. Valid are {valid}. Pass one.")


def _check(mode: str, references: list[DataLike], queries: list[DataLike]) -> None:
    if mode not in ("project", "integrate"):
        raise ValueError(f"Found mode={mode!r}. Valid are 'project' and 'integrate'. Pass one.")
    needed = len(queries) if mode == "project" else len(references) + len(queries) - 1
    if not references or needed < 1:
        raise ValueError(
            f"Found {len(references)} references and {len(queries)} queries. Valid are a reference "
            "and a query, or two datasets with mode='integrate'. Pass what is missing."
        )


def _open_all(
    references: list[DataLike], queries: list[DataLike], reading: Reading
) -> list[Dataset]:
    opened: list[Dataset] = []
    for role, group in (("reference", references), ("query", queries)):
        for i, data in enumerate(group, start=1):
            name = role if len(group) == 1 else f"{role}_{i}"
            like = opened[0].genes if opened else None
            opened.append(open_dataset(data, name, reading, like))
            if not opened[-1].n_obs:
                raise InputError(
                    f"{name!r} has no cells.", "At least one is needed.", "Leave it out."
                )
    return opened


def _parts(
    datasets: list[Dataset],
    keys: list[str | None],
    features: list[str],
    settings: Settings,
    chunk_size: int,
) -> list[Part]:
    """Anchor features and labels of all datasets, cells numbered through."""
    columns = [_labels(one, key) for one, key in zip(datasets, keys, strict=True)]
    codes = encode_labels(columns, [one.n_obs for one in datasets], settings.taxonomy)
    parts, start = [], 0
    for index, one in enumerate(datasets):
        values = one.gather(features, chunk_size=chunk_size).astype(np.float64)
        cells = start + np.arange(one.n_obs)
        parts.append(Part(index, values, cells, codes[index], settings))
        start += one.n_obs
    return parts


def _labels(dataset: Dataset, key: str | None) -> pd.Series | None:
    if key is None:
        return None
    obs = dataset.source.obs
    if key not in obs:
        raise KeyError(
            f"obs of {dataset.name!r} has no column {key!r}. Columns there: "
            f"{', '.join(map(str, obs.columns)) or 'none'}. Pass the name of one of them."
        )
    column: pd.Series = obs[key]
    return column
