"""Batch correction by anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from hdeepinsight._errors import check_choice, missing_column
from hdeepinsight.data import DataLike, InputError
from hdeepinsight.pp._stacas import _datasets
from hdeepinsight.pp._stacas._anchors import UNLABELED, Dataset, encode_labels
from hdeepinsight.pp._stacas._config import NeighborSearch, RunSettings, StacasConfig
from hdeepinsight.pp._stacas._correction import read_anchor_values
from hdeepinsight.pp._stacas._result import CHUNK_SIZE, StacasReport, StacasResult
from hdeepinsight.pp._stacas._tree import integrate, project
from hdeepinsight.taxonomy import Taxonomy, check_labels

__all__ = ["StacasConfig", "StacasReport", "StacasResult", "stacas"]

Data: TypeAlias = "DataLike | Sequence[DataLike]"
Mode = Literal["project", "integrate"]


def stacas(
    adata_ref: Data,
    adata_query: Data | None = None,
    *,
    mode: Mode = "project",
    config: StacasConfig | None = None,
    layer: str | None = None,
    input: _datasets.InputScale = "counts",
    features: int | Sequence[str] = 1000,
    normalizer: _datasets.Normalizer | None = None,
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
        Seed of approximate neighbours, and of the draws of ``as_published``.

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
    check_choice("mode", mode, get_args(Mode))
    check_choice("input", input, get_args(_datasets.InputScale))
    check_choice("neighbors", neighbors, get_args(NeighborSearch))
    datasets = _open_all(adata_ref, adata_query, mode, _datasets.Reading(layer, input, normalizer))
    shared = _datasets.shared_genes(datasets)
    chosen = _datasets.choose_features(datasets, shared, features, config.blocked_genes)
    n_references = len(_as_list(adata_ref))
    keys = [labels_key if i < n_references else query_labels_key for i in range(len(datasets))]
    settings = RunSettings(config, neighbors, random_state, taxonomy)
    compared = _read_features(datasets, keys, chosen, settings, chunk_size)
    if mode == "project":
        outcome = project(compared[:n_references], compared[n_references:])
    else:
        outcome = integrate(compared)
    genes = chosen if config.genes_to_correct == "features" else shared
    return StacasResult(
        datasets=tuple(datasets),
        genes=tuple(genes),
        features=tuple(chosen),
        config=config,
        outcome=outcome,
        anchor_values=read_anchor_values(datasets, outcome.corrections, genes, chunk_size),
        queries=tuple(one.name for one in datasets[n_references if mode == "project" else 0 :]),
        n_shared=len(shared),
    )


def _as_list(data: Data | None) -> list[DataLike]:
    if data is None:
        return []
    return list(data) if isinstance(data, list | tuple) else [data]


def _open_all(
    adata_ref: Data, adata_query: Data | None, mode: Mode, reading: _datasets.Reading
) -> list[_datasets.OpenedDataset]:
    references, queries = _as_list(adata_ref), _as_list(adata_query)
    enough = queries if mode == "project" else [*references, *queries][1:]
    if not references or not enough:
        raise ValueError(
            f"Found {len(references)} references and {len(queries)} queries. Pass a reference and "
            "a query, or two datasets with mode='integrate'."
        )
    opened: list[_datasets.OpenedDataset] = []
    for role, group in (("reference", references), ("query", queries)):
        for i, data in enumerate(group, start=1):
            name = role if len(group) == 1 else f"{role}_{i}"
            like = opened[0].genes if opened else None
            opened.append(_datasets.open_dataset(data, name, reading, like))
            if not opened[-1].n_obs:
                raise InputError(
                    f"{name!r} has no cells.", "At least one is needed.", "Leave it out."
                )
    return opened


def _read_features(
    datasets: list[_datasets.OpenedDataset],
    keys: list[str | None],
    features: list[str],
    settings: RunSettings,
    chunk_size: int,
) -> list[Dataset]:
    """Read the anchor features and labels of all datasets, cells numbered through."""
    columns: list[pd.Series | None] = []
    for one, key in zip(datasets, keys, strict=True):
        obs = one.source.obs
        if key is not None and key not in obs:
            raise missing_column(key, obs.columns, where=f"obs of {one.name!r}")
        columns.append(None if key is None else obs[key])
        if key is not None:
            check_labels(obs[key], f"obs[{key!r}] of {one.name!r}", unlabeled=UNLABELED)
    codes = encode_labels(columns, [one.n_obs for one in datasets], settings.taxonomy)
    starts = np.cumsum([0, *(one.n_obs for one in datasets)])
    return [
        Dataset(
            index,
            one.gather(features, chunk_size=chunk_size).astype(np.float64),
            starts[index] + np.arange(one.n_obs),
            codes[index],
            settings,
        )
        for index, one in enumerate(datasets)
    ]
