"""Batch correction by anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight._errors import check_choice, missing_column
from hdeepinsight.data import DataLike, InputError
from hdeepinsight.graph import Exact
from hdeepinsight.nn import ModelNormalizer
from hdeepinsight.pp._stacas._anchors import (
    UNLABELED,
    Dataset,
    RunSettings,
    StacasConfig,
    encode_labels,
)
from hdeepinsight.pp._stacas._correction import integrate, project
from hdeepinsight.pp._stacas._datasets import (
    OpenedDataset,
    choose_features,
    open_dataset,
    shared_genes,
)
from hdeepinsight.pp._stacas._result import StacasReport, StacasResult
from hdeepinsight.taxonomy import Taxonomy, check_labels

__all__ = ["StacasConfig", "StacasReport", "StacasResult", "stacas"]

Data: TypeAlias = "DataLike | Sequence[DataLike]"
Mode = Literal["project", "integrate"]
NeighborSearch = Literal["auto", "exact", "approximate"]


def stacas(
    adata_ref: Data,
    adata_query: Data | None = None,
    *,
    mode: Mode = "project",
    config: StacasConfig | None = None,
    layer: str | None = None,
    features: int | Sequence[str] = 1000,
    normalizer: ModelNormalizer | None = None,
    labels_key: str | None = None,
    query_labels_key: str | None = None,
    taxonomy: Taxonomy | None = None,
    neighbors: NeighborSearch = "auto",
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
        Numbers of dimensions and neighbours; see `StacasConfig`.
    layer
        Layer with raw counts, in every dataset; ``X`` by default. They become log values of
        counts per 10,000, or what `normalizer` makes of them.
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
    random_state
        Seed of approximate neighbours and of principal components.

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
    papers; the user guide says where it differs.

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
    check_choice("mode", mode, get_args(Mode))
    check_choice("neighbors", neighbors, get_args(NeighborSearch))
    given = [
        [] if one is None else list(one) if isinstance(one, list | tuple) else [one]
        for one in (adata_ref, adata_query)
    ]
    n_references, n_queries = map(len, given)
    if not n_references or (n_queries == 0 if mode == "project" else n_references + n_queries < 2):
        raise ValueError(
            f"Found {n_references} references and {n_queries} queries. Pass a reference and "
            "a query, or two datasets with mode='integrate'."
        )
    datasets: list[OpenedDataset] = []
    columns: list[pd.Series] = []
    for role, key, group in zip(
        ("reference", "query"), (labels_key, query_labels_key), given, strict=True
    ):
        for i, cells in enumerate(group, start=1):
            name = role if len(group) == 1 else f"{role}_{i}"
            like = datasets[0].genes if datasets else None
            one = open_dataset(cells, name, layer, normalizer, like)
            if not one.source.n_obs:
                raise InputError(
                    f"{name!r} has no cells.", "At least one is needed.", "Leave it out."
                )
            obs, labels = one.source.obs, pd.Series([None] * one.source.n_obs, dtype=object)
            if key is not None:
                if key not in obs:
                    raise missing_column(key, obs.columns, where=f"obs of {name!r}")
                labels = obs[key]
                check_labels(labels, f"obs[{key!r}] of {name!r}", unlabeled=UNLABELED)
            datasets.append(one)
            columns.append(labels)
    genes = shared_genes(datasets)
    chosen = choose_features(datasets, genes, features)
    exact: Exact = "auto" if neighbors == "auto" else neighbors == "exact"
    settings = RunSettings(config or StacasConfig(), exact, random_state, taxonomy)
    codes = encode_labels(columns, taxonomy)
    starts = np.cumsum([0, *(one.source.n_obs for one in datasets)])
    compared = [
        Dataset(
            index,
            one.gather(chosen).astype(np.float64),
            starts[index] + np.arange(one.source.n_obs),
            codes[index],
            settings,
        )
        for index, one in enumerate(datasets)
    ]
    if mode == "project":
        outcome = project(compared[:n_references], compared[n_references:])
    else:
        outcome = integrate(compared)
    used = [one.anchors.cells for one in outcome.corrections]
    anchor_cells = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *used]))
    anchor_values = [
        one.gather(genes, np.intersect1d(anchor_cells, side.cells) - side.cells[0])
        for one, side in zip(datasets, compared, strict=True)
    ]
    return StacasResult(
        datasets=tuple(datasets),
        genes=tuple(genes),
        features=tuple(chosen),
        config=settings.config,
        outcome=outcome,
        anchor_cells=anchor_cells,
        anchor_values=sp.vstack(anchor_values, format="csr").astype(np.float64),
        queries=tuple(one.name for one in datasets[n_references if mode == "project" else 0 :]),
    )
