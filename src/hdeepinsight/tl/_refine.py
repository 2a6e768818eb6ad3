"""Refine any classifier's scores on the graph of the cells."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hdeepinsight.tl._graphs import GraphWeights, cell_graphs
from hdeepinsight.tl._refine_run import Method, RefineSolver, Scale, Settings, run
from hdeepinsight.tl._scores import read_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.graph import LaplacianKind
    from hdeepinsight.taxonomy import Taxonomy
    from hdeepinsight.tl._refinement import Refinement

#: Classes of fewer cells come and go by chance; their loss is no warning.
_MIN_CELLS_TO_WARN = 10


def refine(
    adata: AnnData,
    probabilities: str | pd.DataFrame | ArrayLike | Annotation,
    *,
    classes: Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
    method: Method = "local_prior",
    lam: float | Literal["auto"] = "auto",
    use_rep: str | NDArray[np.floating] = "X_pca",
    neighbors_key: str | None = None,
    n_neighbors: int = 15,
    weights: GraphWeights = "binary",
    batch_key: str | None = None,
    n_rounds: int = 2,
    laplacian: LaplacianKind = "rw",
    scale: Scale | None = None,
    floor: float = 1e-12,
    temperature: float = 1.0,
    solver: RefineSolver = "auto",
    tol: float = 1e-5,
    max_iter: int = 200,
    preset: Literal["scprint2"] | None = None,
    key_added: str | None = None,
) -> Refinement:
    """Let cells that resemble each other settle their labels together.

    A classifier judges each cell alone. Here the neighbours of a cell in expression space give it
    a class prior of its own, or its scores are smoothed over the neighbour graph. Any classifier
    will do; labels are never read.

    Parameters
    ----------
    adata
        The cells.
    probabilities
        Scores of the classifier: key of ``obsm``, table, array ``(n_cells, n_classes)`` or
        ``Annotation``. Rows that sum to 1 are probabilities, all others logits.
    classes
        Names of the columns of an array.
    taxonomy
        Tree in which the classes are nodes; an ``Annotation`` brings its own. Only the finest
        classes are refined, what is above them adds up.
    method
        ``"local_prior"`` (ours) or ``"laplacian"`` (GRIT).
    lam
        Strength. For the local prior: weight of the neighbourhood against 1 for the overall class
        frequencies; ``"auto"`` estimates it without labels and comes near 0 on a graph that says
        nothing. For the Laplacian: λ in ``(I + λL) P = P₀``, a number. 0 changes nothing.
    use_rep
        Key of ``obsm``, or coordinates ``(n_cells, d)``, from which the graph is built.
    neighbors_key
        Take this graph of `scanpy.pp.neighbors` instead.
    n_neighbors
        Neighbours a cell (with ``batch_key``: in each batch).
    weights
        ``"binary"``, ``"self_tuning"`` or, of a stored graph, ``"connectivities"``.
    batch_key
        Column of ``obs``. Neighbours are then found within batches, and between them by mutual
        pairs; the local prior weighs both kinds by what they turn out to know.
    n_rounds
        Rounds of the local prior; from the second on neighbours are refined ones.
    laplacian, scale, solver, tol, max_iter
        Of the Laplacian: its kind (``"rw"``, ``"comb"``, ``"sym"``), what is smoothed
        (``"logit"``, ``"logprob"``, ``"prob"``), and how it is solved (``"torch"`` runs on an
        accelerator if there is one).
    floor
        Least probability of a class.
    temperature
        Divides logits before they become probabilities.
    preset
        ``"scprint2"``: Laplacian ``"comb"`` on scanpy's connectivities with λ = 0.1. It overrides
        these settings.
    key_added
        Write the result under this prefix; nothing is written by default.

    Returns
    -------
    Refinement

    Raises
    ------
    KeyError
        If a key is not there.
    ValueError
        If scores, classes, graph or settings are unfit.

    Warns
    -----
    UserWarning
        If a class loses more than half of its cells.

    Notes
    -----
    The local prior is our decision; `hdeepinsight.graph.refine_by_local_prior` states it. GRIT is
    Hu et al. (2025), arXiv:2508.04747. A cluster whose average score is wrong stays wrong. Refined
    probabilities are not calibrated, and a cell's label depends on which other cells are there.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> rng = np.random.default_rng(0)
    >>> is_b = np.arange(60) < 20
    >>> cells = ad.AnnData(obsm={"X_pca": rng.normal(size=(60, 5)) + 6 * is_b[:, None]})
    >>> p_b = np.clip(0.5 + 0.2 * (2 * is_b - 1) + rng.normal(0, 0.2, 60), 0.01, 0.99)
    >>> p = np.column_stack([p_b, 1 - p_b])
    >>> int(((p[:, 0] > 0.5) == is_b).sum())
    53
    >>> result = hdi.tl.refine(cells, p, classes=["B", "T"])
    >>> int(((result.labels == "B") == is_b).sum())
    57
    """
    if preset is not None:
        neighbors_key, weights = _preset(preset, neighbors_key)
        method, lam, laplacian = "laplacian", 0.1, "comb"
    settings = Settings(
        method=method,
        lam=lam,
        n_rounds=n_rounds,
        laplacian=laplacian,
        scale=scale,
        floor=floor,
        temperature=temperature,
        solver=solver,
        tol=tol,
        max_iter=max_iter,
    )
    scores = read_scores(adata, probabilities, classes=classes, taxonomy=taxonomy)
    graphs = cell_graphs(
        adata,
        use_rep=use_rep,
        neighbors_key=neighbors_key,
        n_neighbors=n_neighbors,
        weights=weights,
        batch_key=batch_key,
    )
    result = run(
        pd.Index(adata.obs_names), scores, graphs, settings, by_batch=batch_key is not None
    )
    _warn_of_losses(result)
    if key_added is not None:
        result.to_adata(adata, key_added)
    return result


def _preset(preset: str, neighbors_key: str | None) -> tuple[str, GraphWeights]:
    if preset != "scprint2":
        raise ValueError(f"Found preset={preset!r}. Valid is 'scprint2', or none. Choose one.")
    return neighbors_key or "neighbors", "connectivities"


def _warn_of_losses(result: Refinement) -> None:
    cells = result.class_mass[["cells_before", "cells_after"]]
    many = cells["cells_before"] >= _MIN_CELLS_TO_WARN
    lost = cells[many & (2 * cells["cells_after"] < cells["cells_before"])]
    if len(lost):
        listed = ", ".join(f"{name} ({a} → {b})" for name, (a, b) in lost.iterrows())
        warnings.warn(
            f"{len(lost)} classes lost more than half of their cells: {listed}. Look at "
            "`diagnose()`, and lower lam if these cells are not wrong.",
            UserWarning,
            stacklevel=3,
        )
