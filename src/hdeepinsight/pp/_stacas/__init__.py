"""Batch correction with anchors (STACAS)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight._errors import check_choice, invalid, one_column, refuse_unused
from hdeepinsight.data import DataLike
from hdeepinsight.graph import Exact
from hdeepinsight.nn import ModelNormalizer
from hdeepinsight.pp._stacas import _datasets as reading
from hdeepinsight.pp._stacas._anchors import UNLABELED, Dataset, RunSettings, encode_labels
from hdeepinsight.pp._stacas._anchors import StacasConfig as StacasConfig
from hdeepinsight.pp._stacas._correction import integrate, project
from hdeepinsight.pp._stacas._result import StacasReport as StacasReport
from hdeepinsight.pp._stacas._result import StacasResult as StacasResult
from hdeepinsight.taxonomy import Taxonomy, check_labels

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
    r"""Remove batch effects with anchors: pairs of cells that are mutual nearest neighbours.

    Each query cell is corrected by a locally weighted mean of the differences between the cells of
    the anchors. The data are not modified.

    Parameters
    ----------
    adata_ref
        Reference: an AnnData or the path of an h5ad or zarr file, or several of them.
    adata_query
        Query, or several; optional with ``mode="integrate"``.
    mode
        ``"project"`` keeps the reference unchanged and corrects each query independently; several
        references are integrated first. ``"integrate"`` merges all datasets along a guide tree, one
        of which is unchanged.
    config
        Numbers of dimensions and neighbours; see `StacasConfig`.
    layer
        Layer with raw counts in all datasets; ``X`` by default. Counts are converted to log1p of
        counts per 10,000, or with `normalizer`.
    features
        Number or names of genes used to find anchors.
    normalizer
        ``model.normalizer`` of a model, to normalise counts as the model does, which is required
        for ``model.annotate(query, corrected=result)``.
    labels_key
        Column of ``obs`` with cell types in the references. Anchors between cells of different
        types are removed, which requires labels of the query.
    query_labels_key
        The same for the queries; labels may be missing.
    taxonomy
        Taxonomy of the cell types, in which a label is consistent with its ancestors and
        descendants.
    neighbors
        Neighbour search: ``"exact"``, ``"approximate"``, or ``"auto"``, exact up to 20,000 cells.
    random_state
        Seed of the approximate neighbour search and of principal components.

    Returns
    -------
    Result with corrected values in chunks, anchors and a report.

    Raises
    ------
    InputError
        If a matrix does not hold counts, no gene is in all datasets, or, with
        ``mode="integrate"``, two sides of a merge have no anchors.
    KeyError
        If a label column is missing.
    ValueError
        If a label is not in the taxonomy, or the query is missing.

    Notes
    -----
    With anchors :math:`a` between reference cells :math:`r_a` and query cells :math:`q_a`, and
    weights :math:`W` that decrease with distance and with a lower anchor score, the corrected
    values are :math:`\hat Y_c = Y_c - \sum_a W_{ca} (Y_{q_a} - Y_{r_a})`. Method of STACAS
    {cite:p}`andreatta2021,andreatta2024` with anchors of {cite:p}`stuart2019`, implemented from the
    papers; the user guide lists the differences.

    The correction depends on the composition of the query, and can remove biological differences.
    It is never applied automatically in annotation.

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
        msg = f"Expected a reference and a query, got {n_references} and {n_queries}. Pass both, or"
        raise ValueError(f"{msg} two datasets with mode='integrate'.")
    if normalizer is not None and not hasattr(normalizer, "log_normalize"):
        raise invalid("normalizer", type(normalizer).__name__, "the normalizer of a model")
    if not isinstance(config, StacasConfig | None):
        raise invalid("config", config, "a hdi.pp.StacasConfig")
    if labels_key is None or query_labels_key is None:
        is_one = {"labels_key": n_references == 1, "query_labels_key": n_queries == 1}
        is_one["query_labels_key"] |= mode == "project"
        keys = {"labels_key": labels_key, "query_labels_key": query_labels_key}
        alone = {name: key is not None and is_one[name] for name, key in keys.items()}
        refuse_unused(alone, "without the labels that they are compared with")
        unused = taxonomy is not None and labels_key is query_labels_key
        refuse_unused({"taxonomy": unused}, "without label columns")
    datasets: list[reading.OpenedDataset] = []
    columns: list[pd.Series] = []
    roles = ("reference", labels_key, given[0]), ("query", query_labels_key, given[1])
    for role, key, group in roles:
        for i, cells in enumerate(group, start=1):
            name = role if len(group) == 1 else f"{role}_{i}"
            like = datasets[0].genes if datasets else None
            one = reading.open_dataset(cells, name, layer, normalizer, like)
            labels = pd.Series([None] * one.source.n_obs, dtype=object)
            if key is not None:
                labels = one_column(one.source.obs, key)
                check_labels(labels, f"obs[{key!r}] of {name!r}", unlabeled=UNLABELED)
            datasets.append(one)
            columns.append(labels)
    genes = reading.shared_genes(datasets)
    chosen = reading.choose_features(datasets, genes, features)
    exact: Exact = "auto" if neighbors == "auto" else neighbors == "exact"
    settings = RunSettings(config or StacasConfig(), exact, random_state, taxonomy)
    cells_of = np.split(np.arange(sum(map(len, columns))), np.cumsum([*map(len, columns)])[:-1])
    compared = [
        Dataset(key, one.gather(chosen).astype(np.float64), cells, codes, settings)
        for key, (one, cells, codes) in enumerate(
            zip(datasets, cells_of, encode_labels(columns, taxonomy), strict=True)
        )
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
