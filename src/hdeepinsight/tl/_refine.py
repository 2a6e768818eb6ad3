"""Refine the scores of any classifier on a neighbour graph of the cells."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from hdeepinsight import annotation
from hdeepinsight._errors import check_choice, check_number, invalid, refuse_unused
from hdeepinsight._palette import label_colors, tree_colors
from hdeepinsight.annotation import Additions, Annotation
from hdeepinsight.data import AlignedQuery
from hdeepinsight.graph import (
    LaplacianKind,
    degrees,
    dirichlet_energy,
    refine_by_local_prior,
    smooth,
)
from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl._inputs import ClassScores, GraphWeights, cell_graphs, class_scores

logger = logging.getLogger(__name__)

Method = Literal["local_prior", "laplacian"]
Strength = float | Literal["auto"]
RefineSolver = Literal["auto", "direct", "cg"]
Floats = NDArray[np.float64]

#: Lower bound of probabilities before their logarithm is taken.
_FLOOR = 1e-12
#: There is no warning about classes with fewer cells, which may be lost by chance.
_MIN_CELLS_TO_WARN = 10


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Advanced settings of `refine`, which rarely need to be changed.

    Parameters
    ----------
    n_rounds
        Rounds of the local prior; from the second round on, neighbours have refined probabilities.
    laplacian
        Kind of the Laplacian: ``"rw"``, ``"comb"`` or ``"sym"``.
    solver
        Solver of the Laplacian equation: ``"direct"``, ``"cg"``, or ``"auto"`` by size.
    tol, max_iter
        Tolerance and maximum number of iterations of the iterative solvers.

    Raises
    ------
    ValueError
        If a value is not among the choices.

    Examples
    --------
    Settings of the refinement in scPRINT-2, on the graph stored by `scanpy.pp.neighbors`:

    >>> import hdeepinsight as hdi
    >>> scprint2 = {
    ...     "method": "laplacian",
    ...     "lam": 0.1,
    ...     "neighbors_key": "neighbors",
    ...     "weights": "connectivities",
    ...     "config": hdi.tl.RefineConfig(laplacian="comb"),
    ... }
    """

    n_rounds: int = 2
    laplacian: LaplacianKind = "rw"
    solver: RefineSolver = "auto"
    tol: float = 1e-5
    max_iter: int = 200


@dataclass(frozen=True, eq=False, kw_only=True)
class Refinement:
    """Result of `refine`: class probabilities before and after the refinement.

    Parameters
    ----------
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    classes
        Names of the classes.
    before, after
        Class probabilities, shape ``(n_cells, n_classes)``.
    energy_before, energy_after
        Dirichlet energy, which measures how much scores differ across the edges of the graph.
    parameters
        Settings and statistics: ``lam`` (the strength that was used), ``weights`` of the sources of
        the prior, ``mean_degree``, ``effective_strength`` (λ times the mean degree),
        ``share_isolated`` (fraction of cells) and ``share_within_batches`` (fraction of edges).
    taxonomy, nodes
        Taxonomy, and the node of each class.

    Examples
    --------
    Five cells are all neighbours, and the uncertain one adopts the label of the others:

    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
    >>> p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], method="laplacian", lam=5.0)
    >>> result
    Refinement of 5 cells over 2 classes: 1 labels changed (method laplacian, λ 5)
    >>> result.changed.tolist()
    [False, False, False, False, True]
    """

    obs_names: pd.Index
    classes: tuple[str, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    energy_before: float
    energy_after: float
    parameters: dict[str, Any]
    taxonomy: Taxonomy | None = None
    nodes: NDArray[np.int64] | None = None

    def probabilities(self) -> pd.DataFrame:
        """Return the refined probabilities, shape ``(n_cells, n_classes)``; not calibrated.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
        >>> p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
        >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], method="laplacian", lam=5.0)
        >>> result.probabilities().round(2).iloc[4].to_dict()
        {'B': 0.8, 'T': 0.2}
        """
        return pd.DataFrame(self.after, index=self.obs_names, columns=list(self.classes))

    @cached_property
    def labels(self) -> pd.Series:
        """Most probable class of each cell, categorical."""
        values = pd.Categorical.from_codes(self.after.argmax(axis=1), list(self.classes))
        return pd.Series(values, index=self.obs_names, name="label")

    @cached_property
    def confidence(self) -> pd.Series:
        """Largest refined probability minus the second largest."""
        ordered = np.sort(self.after, axis=1)
        second = ordered[:, -2] if ordered.shape[1] > 1 else 0.0
        return pd.Series(ordered[:, -1] - second, index=self.obs_names, name="confidence")

    @cached_property
    def changed(self) -> pd.Series:
        """Whether the refinement changed the most probable class, bool, shape ``(n_cells,)``."""
        changed = self.before.argmax(axis=1) != self.after.argmax(axis=1)
        return pd.Series(changed, index=self.obs_names, name="changed")

    def diagnose(self) -> pd.DataFrame:
        """Count the cells that each class kept, lost and gained.

        ``lost_to`` is the class that gained most of the lost cells. If a large class neither lost
        nor gained any cells (``nothing_flipped``), it may still be wrong as a whole, because no
        label changes if all neighbours have the same error.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
        >>> p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
        >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], method="laplacian", lam=5.0)
        >>> result.diagnose()
               kept  lost  gained lost_to  nothing_flipped
        class
        B         4     0       1                    False
        T         0     1       0       B            False
        """
        old, new = self.before.argmax(axis=1), self.after.argmax(axis=1)
        counts = confusion_matrix(old, new, labels=range(len(self.classes)))
        kept = counts.diagonal()
        away = counts - np.diag(kept)
        most = [self.classes[row.argmax()] if row.any() else "" for row in away]
        return pd.DataFrame(
            {
                "kept": kept,
                "lost": away.sum(axis=1),
                "gained": away.sum(axis=0),
                "lost_to": most,
                "nothing_flipped": (kept > 0) & ~away.any(axis=1) & ~away.any(axis=0),
            },
            index=pd.Index(self.classes, name="class"),
        )

    def annotation(self, *, threshold: float | None = 0.5) -> Annotation:
        """Return the result as an annotation, with probabilities summed along the taxonomy.

        Parameters
        ----------
        threshold
            Cells are labelled at the deepest node with at least this probability.

        Raises
        ------
        ValueError
            If there is no taxonomy.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
        >>> p = np.array([[0.4, 0.4, 0.2]] * 5)
        >>> names = ["CD4", "CD8", "B"]
        >>> result = hdi.tl.refine(
        ...     cells, p, classes=names, taxonomy=tree, method="laplacian", lam=5.0
        ... )
        >>> result.annotation().labels["stop_label"].tolist()
        ['T', 'T', 'T', 'T', 'T']
        """
        if self.taxonomy is None or self.nodes is None:
            found = "a refinement without a taxonomy. Pass taxonomy= to hdi.tl.refine."
            raise ValueError(f"Classes must be nodes of a taxonomy, got {found}")
        mass = annotation.node_mass(self.taxonomy, self.after, self.nodes)
        return Annotation(
            taxonomy=self.taxonomy,
            obs_names=self.obs_names,
            node_probabilities=annotation.node_probabilities(self.taxonomy, mass),
            threshold=threshold,
            recipe={"refine": self.parameters},
        )

    def to_adata(
        self, adata: AnnData, key_added: str = "refined", *, overwrite: bool = False
    ) -> None:
        """Write labels and confidence to ``obs``, probabilities to ``obsm``, settings to ``uns``.

        Parameters
        ----------
        adata
            Object with the same cells in the same order.
        key_added
            Prefix of the added keys: ``obs["<key>_label"]``, ``obs["<key>_confidence"]``,
            ``obs["<key>_changed"]``, ``obsm["<key>_probabilities"]``,
            ``uns["<key>_label_colors"]`` and ``uns["<key>"]``.
        overwrite
            As in `Annotation.to_adata`.

        Raises
        ------
        ValueError
            If the cells are not the same, or a key exists.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
        >>> p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
        >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], method="laplacian", lam=5.0)
        >>> result.to_adata(cells)
        >>> cells.obs["refined_label"].tolist(), cells.obsm["refined_probabilities"].shape
        (['B', 'B', 'B', 'B', 'B'], (5, 2))
        """
        annotation.check_cells(self.obs_names, adata, "refinement", "refined")
        table = self.probabilities().rename(columns=annotation.storable)
        colors = list(label_colors(self.classes).values())
        if self.taxonomy is not None and self.nodes is not None:  # same colours as annotations
            by_label = tree_colors(self.taxonomy.labels, self.taxonomy.parent)
            colors = [by_label[self.taxonomy.label(int(node))] for node in self.nodes]
        columns = {"label": self.labels, "confidence": self.confidence, "changed": self.changed}
        added = Additions(
            obs={name: each.array for name, each in columns.items()},
            obsm={"probabilities": table},
            uns={"label_colors": colors},
        )
        settings = {name: str(value) for name, value in self.parameters.items()}
        added.write(adata, key_added, settings, overwrite=overwrite)

    def __repr__(self) -> str:
        return (
            f"Refinement of {len(self.obs_names)} cells over {len(self.classes)} classes: "
            f"{int(self.changed.sum())} labels changed (method {self.parameters['method']}, "
            f"λ {self.parameters['lam']:.3g})"
        )


def refine(
    adata: AnnData | AlignedQuery,
    probabilities: str | pd.DataFrame | ArrayLike | Annotation,
    *,
    classes: Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
    method: Method = "local_prior",
    lam: Strength = "auto",
    use_rep: str | NDArray[np.floating] = "X_pca",
    neighbors_key: str | None = None,
    n_neighbors: int = 15,
    weights: GraphWeights = "binary",
    batch_key: str | None = None,
    config: RefineConfig | None = None,
) -> Refinement:
    """Refine the class scores of cells using their neighbours in expression space.

    Most classifiers predict each cell independently. Here, either the neighbours of a cell define a
    local class prior, or scores are smoothed over the neighbour graph. Scores of any classifier can
    be refined. No labels are used.

    Parameters
    ----------
    adata
        Cells, as an AnnData or as an opened query.
    probabilities
        Scores of the classifier: key of ``obsm``, table, array ``(n_cells, n_classes)`` or
        ``Annotation``. If all rows sum to 1, they are probabilities, otherwise logits.
    classes
        Names of the columns of an array.
    taxonomy
        Taxonomy in which the classes are nodes; by default that of an ``Annotation``. Only the
        finest classes are refined; the probabilities of their ancestors are sums.
    method
        ``"local_prior"`` (ours) or ``"laplacian"`` (GRIT).
    lam
        Strength; 0 changes nothing. For the local prior, the weight of the neighbourhood relative
        to a weight of 1 for the overall class frequencies; ``"auto"`` estimates it without labels
        and is close to 0 on an uninformative graph. For the Laplacian, λ in
        ``(I + λL) P = P₀``, a number.
    use_rep
        Key of ``obsm``, or coordinates ``(n_cells, d)``, from which the graph is built. For an
        opened query, ``"X_pca"`` is computed by `expression_pca`.
    neighbors_key
        Use this graph of `scanpy.pp.neighbors` instead.
    n_neighbors
        Number of neighbours per cell (with ``batch_key``, per batch).
    weights
        Edge weights: ``"binary"`` or, for a stored graph, ``"connectivities"``.
    batch_key
        Column of ``obs`` with batches. Neighbours within batches, and mutual neighbours between
        batches, then form two graphs, whose weights in the local prior are estimated.
    config
        Advanced settings; see `RefineConfig`.

    Returns
    -------
    Refinement
        Probabilities before and after the refinement.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If scores, classes, graph or settings are invalid.

    Warns
    -----
    UserWarning
        If a class loses more than half of its cells.

    Notes
    -----
    The local prior is our design, described in `hdeepinsight.graph.refine_by_local_prior`. GRIT is
    Hu et al. (2025), arXiv:2508.04747. Refinement cannot correct a cluster whose average score is
    wrong. Refined probabilities are not calibrated, and a cell's label depends on the other cells.

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
    config = _settings_of(method, lam, config)
    scores = class_scores(adata, probabilities, classes=classes, taxonomy=taxonomy)
    graphs = cell_graphs(
        adata,
        use_rep=use_rep,
        neighbors_key=neighbors_key,
        n_neighbors=n_neighbors,
        weights=weights,
        batch_key=batch_key,
    )
    names = pd.Index(adata.obs_names)
    result = _refine_on(graphs, names, scores, method, lam, config)
    flips = result.diagnose()
    n_before, n_after = flips["kept"] + flips["lost"], flips["kept"] + flips["gained"]
    lost = flips.index[(n_before >= _MIN_CELLS_TO_WARN) & (2 * n_after < n_before)]
    if len(lost):
        listed = ", ".join(f"{name} ({n_before[name]} → {n_after[name]})" for name in lost)
        message = f"{len(lost)} classes lost more than half of their cells: {listed}. Check "
        message += "`diagnose()`, and lower lam if these cells were correct."
        warnings.warn(message, UserWarning, stacklevel=2)
    return result


def lambda_path(
    adata: AnnData | AlignedQuery,
    probabilities: str | pd.DataFrame | ArrayLike | Annotation,
    *,
    grid: Sequence[float] = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0),
    classes: Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
    method: Method = "local_prior",
    config: RefineConfig | None = None,
    **graph: Any,
) -> pd.DataFrame:
    """Refine scores with several strengths on the same graph, and summarise the results.

    Parameters
    ----------
    adata, probabilities
        As in `refine`.
    grid
        Strengths to try.
    classes, taxonomy, method, config
        As in `refine`.
    **graph
        ``use_rep``, ``neighbors_key``, ``n_neighbors``, ``weights`` and ``batch_key`` of `refine`.

    Returns
    -------
    pandas.DataFrame
        One row per strength (index ``lam``): ``mean_margin`` (mean confidence), ``mass_drift``
        (half the sum of absolute changes of class frequencies, 0 to 1), ``smallest_mass_ratio``
        (of the class that shrank most, among those with a mass of at least one cell), ``energy``
        (Dirichlet energy) and ``n_changed`` (number of changed labels).

    Raises
    ------
    ValueError
        If scores, graph or settings are invalid.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> rng = np.random.default_rng(0)
    >>> cells = ad.AnnData(obsm={"X_pca": rng.normal(size=(50, 5))})
    >>> p = rng.dirichlet([1, 1, 1], size=50)
    >>> path = hdi.tl.lambda_path(cells, p, grid=[0, 1, 9], classes=["B", "T", "NK"])
    >>> path["n_changed"].tolist()[0], path.columns.tolist()[:2]
    (0, ['mean_margin', 'mass_drift'])
    """
    scores = class_scores(adata, probabilities, classes=classes, taxonomy=taxonomy)
    graphs, names, rows = cell_graphs(adata, **graph), pd.Index(adata.obs_names), []
    for lam in grid:
        settings = _settings_of(method, lam, config)
        result = _refine_on(graphs, names, scores, method, lam, settings)
        before, after = result.before.sum(axis=0), result.after.sum(axis=0)
        ratio = np.where(before >= 1, after / np.maximum(before, 1e-12), np.inf)
        rows.append(
            {
                "mean_margin": float(result.confidence.mean()),
                "mass_drift": float(np.abs(after - before).sum() / (2 * len(names))),
                "smallest_mass_ratio": float(ratio.min()),
                "energy": result.energy_after,
                "n_changed": int(result.changed.sum()),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(list(grid), name="lam", dtype=float))


def _settings_of(method: Method, lam: Strength, config: RefineConfig | None) -> RefineConfig:
    """Return the advanced settings; raise ``ValueError`` for those without effect."""
    check_choice("method", method, get_args(Method))
    if lam != "auto":
        check_number("lam", lam, hint="Pass 'auto' to estimate it.")
    elif method == "laplacian":
        hint = "Choose one with hdi.tl.lambda_path, or use method='local_prior'."
        raise invalid("lam", lam, "a number >= 0 with method='laplacian'", hint)
    if not isinstance(config, RefineConfig | None):
        raise invalid("config", config, "a hdi.tl.RefineConfig")
    of_laplacian, usual = ("laplacian", "solver", "tol", "max_iter"), RefineConfig()
    config = config or usual
    others = of_laplacian if method == "local_prior" else ("n_rounds",)
    changed = {name: getattr(config, name) != getattr(usual, name) for name in others}
    refuse_unused(changed, f"with method={method!r}")
    return config


def _refine_on(
    graphs: list[sp.csr_matrix],
    obs_names: pd.Index,
    scores: ClassScores,
    method: Method,
    lam: Strength,
    config: RefineConfig,
) -> Refinement:
    """Refine scores on one or more graphs without common edges."""
    graph = sp.csr_matrix(sum(graphs[1:], graphs[0]))
    degree = degrees(graph)
    if method == "local_prior":
        before, fixed = scores.probabilities(), None if lam == "auto" else lam
        rounds: dict[str, Any] = {"n_rounds": config.n_rounds, "floor": _FLOOR}
        refined = refine_by_local_prior(graphs, before, lam=fixed, **rounds)
        after = before if fixed == 0 else refined.probabilities
        overall = max(float(refined.weights[0]), 1e-12)
        found: dict[str, Any] = {
            "lam": (1 - overall) / overall if fixed is None else fixed,
            "weights": refined.weights.tolist(),
            "lam_estimated": fixed is None,
        }
        smooth_before, smooth_after = before, after
    else:
        smooth_before, scale = scores.values, "logit"
        if scores.are_probabilities:
            smooth_before, scale = np.log(np.maximum(smooth_before, _FLOOR)), "logprob"
        logger.info("Scores are %s.", "logits" if scale == "logit" else "probabilities")
        solving = {key: value for key, value in vars(config).items() if key != "n_rounds"}
        smooth_after = smooth(graph, smooth_before, lam=float(lam), **solving)
        before, after = (np.asarray(softmax(x, axis=1)) for x in (smooth_before, smooth_after))
        found = {"lam": float(lam), "scale": scale}
    parameters: dict[str, Any] = {
        "method": method,
        **vars(config),
        "mean_degree": float(degree.mean()),
        "share_isolated": float((degree == 0).mean()),
        "share_within_batches": graphs[0].nnz / max(graph.nnz, 1) if graphs[1:] else None,
        **found,
    }
    parameters["effective_strength"] = parameters["lam"] * parameters["mean_degree"]
    return Refinement(
        obs_names=obs_names,
        classes=scores.classes,
        before=before,
        after=after,
        energy_before=dirichlet_energy(graph, smooth_before, config.laplacian),
        energy_after=dirichlet_energy(graph, smooth_after, config.laplacian),
        parameters=parameters,
        taxonomy=scores.taxonomy,
        nodes=scores.nodes,
    )
