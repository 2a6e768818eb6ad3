"""Reduce a labelled reference to averaged or selected cells, and draw cells from averaged ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from hdeepinsight._errors import (
    check_choice,
    check_integer,
    check_number,
    examples,
    invalid,
    need_extra,
    one_column,
)
from hdeepinsight.data import DataLike, cell_positions, log_normalize, open_counts
from hdeepinsight.image import global_seeds
from hdeepinsight.taxonomy import find_unlabeled
from hdeepinsight.tl._representation import expression_pca

Selection = Literal[
    "centroids", "class_mean", "pseudobulk", "herding", "k_center", "geosketch", "random"
]
RareClasses = Literal["error", "keep_real", "drop"]


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledCells:
    """Labelled cells of a reference in memory.

    Attributes
    ----------
    counts
        Counts of all genes, shape ``(n_cells, n_genes)``.
    codes
        Class of each cell, as a position in ``classes``, shape ``(n_cells,)``.
    classes
        Names of the classes, in the order of the categories.
    rows
        Positions of the cells in the reference, shape ``(n_cells,)``.
    all_names
        Names of all cells of the reference, including unlabelled ones.
    obs, var
        Annotation of the cells, and of the genes.
    labels_key
        Column of the classes.
    """

    counts: sp.csr_matrix
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    rows: NDArray[np.int64]
    all_names: pd.Index
    obs: pd.DataFrame
    var: pd.DataFrame
    labels_key: str

    @property
    def logged(self) -> sp.csr_matrix:
        """Log1p of counts per 10,000."""
        return log_normalize(self.counts)

    def subset(self, rows: NDArray[np.int64]) -> LabelledCells:
        """Return the cells at the given positions, without dropping classes."""
        counts, codes, obs = self.counts[rows], self.codes[rows], self.obs.iloc[rows]
        return replace(self, counts=counts, codes=codes, rows=self.rows[rows], obs=obs)

    def chosen(self, indices: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each cell is among some cells of the reference, given in any form."""
        return np.isin(self.rows, cell_positions(indices, self.all_names))


def select_cells(
    adata: DataLike,
    labels_key: str,
    cells_per_class: int | float | Mapping[str, int],
    *,
    method: Selection = "centroids",
    layer: str | None = None,
    rare: RareClasses = "error",
    seed: int = 0,
) -> AnnData:
    r"""Reduce a labelled reference to a few cells per class.

    Parameters
    ----------
    adata
        Reference with raw counts: an AnnData or a path. Not modified. Unlabelled cells are ignored.
    labels_key
        Column of ``obs`` with the class of each cell.
    cells_per_class
        Number of cells per class, a mapping of numbers by class, or, below 1, a fraction of all
        labelled cells, divided equally among the classes.
    method
        ``"centroids"`` averages the cells of each k-means cluster of a class, ``"class_mean"`` all
        cells of the class, ``"pseudobulk"`` random subsets of them. The others select real cells:
        ``"herding"`` cells with a mean close to that of the class, ``"k_center"`` the farthest
        cells from those already selected, ``"geosketch"`` cells spread evenly in expression space
        (requires ``hdeepinsight[distill]``), ``"random"`` random cells.
    layer
        Layer with the counts; ``X`` by default.
    rare
        How to treat classes with fewer cells than requested: ``"error"`` raises, ``"keep_real"``
        keeps all their cells, ``"drop"`` drops them.
    seed
        Random seed; the same data and seed give the same result.

    Returns
    -------
    AnnData
        ``X`` contains log1p of counts per 10,000, ``layers["counts"]`` integer counts, ``obs`` the
        labels, ``n_cells`` (number of real cells per row), ``is_real``, and the columns of the
        reference that are constant within each class, such as coarser levels. ``uns["distill"]``
        contains the settings. To train a network on averages, pass them to
        :func:`simulate_cells`; selected cells are set up with ``layer="counts"``.

    Raises
    ------
    ImportError
        If geosketch is required but not installed.
    InputError
        If the matrix has no counts.
    KeyError
        If the column does not exist.
    ValueError
        If there are fewer than two classes, or a class has too few cells.

    Notes
    -----
    An average is the mean of log values. Its counts are the profile :math:`\exp(x) - 1`, scaled to
    the median depth of the reference times ``n_cells`` and rounded stochastically without bias. At
    the depth of a single cell, rounding would reintroduce the noise that averaging removes.
    Clusters and distances use 50 principal components (:func:`expression_pca`). Herding is due to
    Welling (2009, doi:10.1145/1553374.1553517), k-center to Gonzalez (1985,
    doi:10.1016/0304-3975(85)90224-5), geometric sketching to Hie et al. (2019,
    doi:10.1016/j.cels.2019.05.003). Averages conceal individual cells but are **not** anonymous.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> reference = hdi.datasets.demo().reference
    >>> small = hdi.tl.select_cells(reference, "cell_type", 2, method="herding")
    >>> small.n_obs == 2 * reference.obs["cell_type"].nunique()
    True
    >>> hdi.SCHDeepInsight.setup_anndata(
    ...     small, layer="counts", labels_keys=["lineage", "cell_type"]
    ... )
    """
    check_choice("method", method, get_args(Selection))
    if method == "class_mean" and cells_per_class != 1:
        hint = 'Use "centroids" for several.'
        raise invalid("method", method, "used with cells_per_class=1: a class has one mean", hint)
    check_integer("seed", seed, 0)
    cells = read_labelled(adata, labels_key, layer=layer)
    numbers, kept = class_numbers(cells, cells_per_class, rare)
    points = expression_pca([cells.counts], seed=seed).astype(np.float64)
    groups: list[NDArray[np.int64]] = []
    rng = np.random.default_rng(seed)
    for code, number in enumerate(numbers):
        rows = np.flatnonzero(cells.codes == code)
        if code in kept:
            groups += [rows[[i]] for i in range(len(rows))]
        elif number:
            groups += [rows[part] for part in _parts(points[rows], number, method, rng)]
    recipe = {"method": str(method), "n_reference": len(cells.codes), "seed": int(seed)}
    # One row per group: a real cell, or the mean of log values.
    sizes = np.array([len(group) for group in groups])
    first = np.array([group[0] for group in groups])
    places = np.repeat(np.arange(len(groups)), sizes), np.concatenate(groups)
    means = sp.csr_matrix((np.repeat(1 / sizes, sizes), places), (len(groups), len(cells.codes)))
    logged, real = means @ cells.logged.astype(np.float64), np.where(sizes == 1, first, -1)
    return small_reference(cells, cells.codes[first], logged, sizes, real, recipe, seed=seed)


def _parts(
    points: NDArray[np.float64], n: int, method: Selection, rng: np.random.Generator
) -> Sequence[NDArray[np.int64]]:
    """Assign the cells of a class to ``n`` rows; a selected cell is a row of its own."""
    seed = int(rng.integers(2**31))
    if method in ("centroids", "class_mean", "pseudobulk"):
        labels = rng.permutation(len(points)) % n
        if method == "centroids" and n < len(points):
            with warnings.catch_warnings(), threadpool_limits(1, "openmp"):  # for reproducible sums
                warnings.simplefilter("ignore", ConvergenceWarning)  # raised for equal cells
                found = KMeans(n, n_init=4, random_state=seed).fit_predict(points)
            labels = found if len(np.unique(found)) == n else labels
        return [np.flatnonzero(labels == i) for i in range(n)]
    if method == "herding":
        chosen = herding(points, n)
    elif method == "k_center":
        chosen = k_center(points, n)
    elif method == "geosketch":
        geosketch = need_extra("geosketch", "distill", 'method="geosketch"')
        with global_seeds(seed):
            chosen = np.asarray(geosketch.gs(points, n, replace=False))
    else:
        chosen = rng.choice(len(points), n, replace=False)
    return [np.array([i]) for i in np.sort(chosen)]


def herding(points: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Select points one by one, keeping their mean as close as possible to that of all points.

    Examples
    --------
    >>> herding(np.array([[0.0], [1.0], [2.0], [9.0]]), 2).tolist()
    [2, 1]
    """
    mean, total = points.mean(axis=0), np.zeros(points.shape[1])
    chosen: list[int] = []
    for size in range(1, n + 1):
        distance = np.square((total + points) / size - mean).sum(axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
        total += points[chosen[-1]]
    return np.array(chosen)


def k_center(points: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Select the point closest to the mean, then repeatedly the farthest from those selected.

    Examples
    --------
    >>> k_center(np.array([[0.0], [1.0], [2.0], [9.0]]), 3).tolist()
    [2, 3, 0]
    """
    chosen = [int(np.square(points - points.mean(axis=0)).sum(axis=1).argmin())]
    nearest = np.full(len(points), np.inf)
    for _ in range(n - 1):
        nearest = np.minimum(nearest, np.square(points - points[chosen[-1]]).sum(axis=1))
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


def read_labelled(adata: DataLike, labels_key: str, *, layer: str | None = None) -> LabelledCells:
    """Read the counts and labels of labelled cells; ``ValueError`` for fewer than two classes."""
    source = open_counts(adata, layer=layer, arguments={"layer": "layer"})
    labels = one_column(source.obs, labels_key)
    labelled = ~find_unlabeled(labels)
    column = labels[labelled].astype("category").cat.remove_unused_categories()
    if len(column.cat.categories) < 2:
        found = examples(map(str, column.cat.categories)) or "none"
        hint = "Pass a column with finer labels."
        raise ValueError(f"{labels_key!r} must have at least two classes, got {found}. {hint}")
    counts = sp.vstack([sp.csr_matrix(block) for _, block in source.blocks()], format="csr")
    return LabelledCells(
        counts=counts[np.flatnonzero(labelled)].astype(np.float32),
        codes=column.cat.codes.to_numpy(np.int64),
        rows=np.flatnonzero(labelled),
        all_names=labels.index,
        classes=tuple(map(str, column.cat.categories)),
        obs=source.obs[labelled],
        var=source.var.copy(),
        labels_key=labels_key,
    )


def class_numbers(
    cells: LabelledCells, asked: Any, rare: RareClasses, *, least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of cells per class, and the classes whose real cells are kept.

    Parameters
    ----------
    cells
        Labelled cells of the reference.
    asked
        Number per class, mapping of numbers by class, or fraction of all cells.
    rare
        How to treat classes with fewer cells than requested, or than ``least``.
    """
    check_choice("rare", rare, get_args(RareClasses))
    if isinstance(asked, Mapping):
        if set(map(str, asked)) != set(cells.classes):
            expected = f"a number for each of the classes {examples(cells.classes, 20)}"
            raise invalid("cells_per_class", dict(asked), expected)
        asked = {str(name): number for name, number in asked.items()}
        each = [asked[name] for name in cells.classes]
    elif isinstance(asked, float | np.floating):
        check_number("cells_per_class", asked, 1e-6, 1 - 1e-6, hint="Pass a whole number above it.")
        each = [max(1, round(asked * len(cells.codes) / len(cells.classes)))] * len(cells.classes)
    else:
        each = [asked] * len(cells.classes)
    for number in each:
        check_integer("cells_per_class", number)
    numbers = np.array(each, dtype=np.int64)
    sizes = np.bincount(cells.codes, minlength=len(cells.classes))
    short = np.flatnonzero(sizes < np.maximum(numbers, least))
    if len(short) and rare == "error":
        named = examples([f"{cells.classes[i]} ({sizes[i]})" for i in short], 10)
        hint = 'Request fewer cells, or pass rare="keep_real" or rare="drop".'
        needed = max(least, *numbers[short])
        raise ValueError(f"Each class must have at least {needed} cells, got {named}. {hint}")
    numbers[short] = 0
    if not numbers.any():
        raise invalid("cells_per_class", asked, "at most the size of a class", "Lower it.")
    return numbers, short if rare == "keep_real" else short[:0]


def small_reference(
    cells: LabelledCells,
    codes: NDArray[np.int64],
    logged: Any,
    sizes: NDArray[Any],
    real: NDArray[np.int64],
    recipe: Mapping[str, Any],
    *,
    seed: int,
) -> AnnData:
    """Convert rows of log values to an AnnData with counts and annotations of the reference.

    Parameters
    ----------
    cells
        Labelled cells of the reference.
    codes
        Class of each row, shape ``(n_rows,)``.
    logged
        Log1p of expected counts per 10,000, shape ``(n_rows, n_genes)``.
    sizes
        Number of cells per row, shape ``(n_rows,)``; counts are scaled to their total depth.
    real
        Position of the real cell of each row, -1 for averages and synthetic cells.
    recipe
        Settings, as plain types.
    seed
        Random seed of the rounding.
    """
    logged = sp.csr_matrix(logged)
    profile = np.expm1(logged.toarray().astype(np.float64))
    total = profile.sum(axis=1, keepdims=True)
    depth = np.median(np.asarray(cells.counts.sum(axis=1, dtype=np.float64)))
    expected = profile / np.maximum(total, 1e-12) * depth * sizes[:, None]
    counts = np.floor(expected + np.random.default_rng(seed).random(expected.shape))
    order = pd.Series(codes).groupby(codes).cumcount()
    names = [f"{cells.classes[code]}_{i}" for code, i in zip(codes, order, strict=True)]
    index, is_real = np.array(names, dtype=object), real >= 0
    counts[is_real] = cells.counts[real[is_real]].toarray()
    index[is_real] = cells.obs.index[real[is_real]]
    place = pd.Series(np.arange(len(cells.codes))).groupby(cells.codes).first()[codes]
    # All categories of the reference are kept, including those of dropped classes.
    labels = pd.Categorical(cells.obs[cells.labels_key].iloc[place])
    obs = pd.DataFrame({cells.labels_key: labels, "n_cells": sizes, "is_real": is_real}, index)
    for key in cells.obs.columns.difference(obs.columns, sort=False):
        values = pd.Series(pd.factorize(cells.obs[key])[0])
        if values.groupby(cells.codes).nunique().max() == 1:
            obs[key] = cells.obs[key].iloc[place].array
    return AnnData(
        logged.astype(np.float32),
        obs=obs,
        var=cells.var.copy(),
        layers={"counts": sp.csr_matrix(counts, dtype=np.float32)},
        uns={"distill": {"labels_key": cells.labels_key, **recipe}},
    )


#: Standard deviation of the log depth of simulated cells, about that of a 10x experiment.
LOG_DEPTH_SD = 0.4


def simulate_cells(
    profiles: AnnData,
    n_per_profile: int = 50,
    *,
    depth: float | None = None,
    layer: str | None = None,
    seed: int = 0,
) -> AnnData:
    r"""Draw single cells from averaged profiles, such as centroids, pseudobulks or bulk samples.

    A network learns what single cells look like from its reference. Averages have neither the
    zeros nor the noise of single cells, so train on cells simulated from them instead.

    Parameters
    ----------
    profiles
        Rows with the summed counts of many cells, as :func:`select_cells` and :func:`distill`
        return them (counts in ``layers["counts"]``), or bulk samples.
    n_per_profile
        Cells per row.
    depth
        Mean counts per cell. By default, the counts of each row divided by ``obs["n_cells"]``.
    layer
        Layer with the counts; by default ``"counts"`` if there is one, else ``X``.
    seed
        Seed of the draws.

    Returns
    -------
    AnnData
        ``n_profiles * n_per_profile`` cells with whole counts in ``X`` (CSR float32), the columns
        of ``obs`` of their rows except ``n_cells`` and ``is_real``, and the row's name in
        ``obs["profile"]``.

    Raises
    ------
    InputError
        If the matrix does not hold counts.
    ValueError
        If a number is out of its range, or ``depth`` is missing and there is no
        ``obs["n_cells"]``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> reference = hdi.datasets.demo().reference
    >>> centroids = hdi.tl.select_cells(reference, "cell_type", 2)
    >>> cells = hdi.tl.simulate_cells(centroids, 20)
    >>> cells.n_obs == 20 * centroids.n_obs
    True

    Notes
    -----
    The counts of cell :math:`i` of profile :math:`p` are Poisson with mean
    :math:`d_i\, x_p / \sum_g x_{pg}`, where :math:`\log d_i` is normal with standard deviation
    0.4 and :math:`d_i` has mean ``depth``. Variation within a type is that between its profiles,
    so take several profiles per type. Our own construction.
    """
    check_integer("n_per_profile", n_per_profile)
    if depth is not None:
        check_number("depth", depth, 1.0)
    if layer is None and "counts" in profiles.layers:
        layer = "counts"
    source = open_counts(profiles, layer=layer, arguments={"layer": "layer"})
    counts = sp.vstack([sp.csr_matrix(block) for _, block in source.blocks()], format="csr")
    counts = counts.astype(np.float64)
    total = np.asarray(counts.sum(axis=1)).ravel()
    if depth is not None:
        depths = np.full(profiles.n_obs, float(depth))
    elif "n_cells" in profiles.obs:
        depths = total / profiles.obs["n_cells"].to_numpy()
    else:
        raise ValueError(
            "simulate_cells needs the depth of a cell, and obs has no column 'n_cells'. "
            "Pass depth=, the mean counts per cell of the queries, such as 2000."
        )
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(profiles.n_obs), n_per_profile)
    spread = np.exp(rng.normal(-(LOG_DEPTH_SD**2) / 2, LOG_DEPTH_SD, len(rows)))
    cells = counts[rows]
    factor = depths[rows] * spread / np.maximum(total[rows], 1.0)
    cells.data = rng.poisson(cells.data * np.repeat(factor, np.diff(cells.indptr)))
    cells.eliminate_zeros()
    obs = profiles.obs.iloc[rows].drop(columns=["n_cells", "is_real"], errors="ignore")
    obs["profile"] = profiles.obs_names[rows]
    obs.index = obs["profile"] + "_" + np.tile(np.arange(n_per_profile), profiles.n_obs).astype(str)
    return AnnData(sp.csr_matrix(cells, dtype=np.float32), obs=obs, var=profiles.var.copy())
