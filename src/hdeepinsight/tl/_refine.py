"""Refine any classifier's scores on the graph of the cells, and see what changed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix

from hdeepinsight import annotation
from hdeepinsight._errors import check_number
from hdeepinsight._palette import label_colors, tree_colors
from hdeepinsight.annotation import Additions, Annotation
from hdeepinsight.graph import degrees, refine_by_local_prior
from hdeepinsight.tl._inputs import cell_graphs, class_scores
from hdeepinsight.tl._representation import as_anndata

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.data import AlignedQuery
    from hdeepinsight.taxonomy import Taxonomy

#: Classes of fewer cells come and go by chance; their loss is no warning.
_MIN_CELLS_TO_WARN = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Refinement:
    """Refined probabilities of cells, beside those before.

    Parameters
    ----------
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    classes
        Names of the classes.
    before, after
        Distributions over the classes, shape ``(n_cells, n_classes)``.
    parameters
        What was measured on the way: ``lam`` (the strength that was used), whether it was
        estimated (``lam_estimated``), ``weights`` of the sources of the prior, ``mean_degree``,
        ``share_isolated`` cells and ``share_within_batches`` of edges.
    taxonomy, nodes
        The tree, and the node of every class.

    Examples
    --------
    Of five cells that are all neighbours, the one that doubts follows the others:

    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
    >>> p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], lam=5.0)
    >>> result
    Refinement of 5 cells over 2 classes: 1 labels changed (λ 5)
    >>> result.changed.tolist()
    [False, False, False, False, True]
    """

    obs_names: pd.Index
    classes: tuple[str, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
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
        >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], lam=5.0)
        >>> result.probabilities().round(2).iloc[4].to_dict()
        {'B': 0.53, 'T': 0.47}
        """
        return pd.DataFrame(self.after, index=self.obs_names, columns=list(self.classes))

    @cached_property
    def labels(self) -> pd.Series:
        """Most probable class of every cell, categorical."""
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
        """Whether the most probable class is another one than before."""
        moved = self.before.argmax(axis=1) != self.after.argmax(axis=1)
        return pd.Series(moved, index=self.obs_names, name="changed")

    def diagnose(self) -> pd.DataFrame:
        """Count flips of every class: cells kept, lost and gained, and where most lost ones went.

        A class of many cells of which none was lost or gained may be right, or wrong as a whole:
        where all neighbours err alike nothing can flip.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
        >>> p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
        >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], lam=5.0)
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
        """Roll the probabilities up the taxonomy.

        Parameters
        ----------
        threshold
            A cell's path stops at the deepest node with at least this probability.

        Raises
        ------
        ValueError
            If no taxonomy was given.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
        >>> p = np.array([[0.4, 0.4, 0.2]] * 5)
        >>> names = ["CD4", "CD8", "B"]
        >>> result = hdi.tl.refine(cells, p, classes=names, taxonomy=tree, lam=5.0)
        >>> result.annotation().labels["stop_label"].tolist()
        ['T', 'T', 'T', 'T', 'T']
        """
        if self.taxonomy is None or self.nodes is None:
            raise ValueError(
                "Found a refinement without a taxonomy. Its classes must be nodes of a tree. Pass "
                "taxonomy= to hdi.tl.refine."
            )
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
            Object with these cells, in this order.
        key_added
            Prefix: ``obs["<key>_label"]``, ``obs["<key>_confidence"]``, ``obs["<key>_changed"]``,
            ``obsm["<key>_probabilities"]``, ``uns["<key>_label_colors"]`` and ``uns["<key>"]``.
        overwrite
            As in `Annotation.to_adata`.

        Raises
        ------
        ValueError
            If the cells are not the same, or a name is taken.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
        >>> p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
        >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], lam=5.0)
        >>> result.to_adata(cells)
        >>> cells.obs["refined_label"].tolist(), cells.obsm["refined_probabilities"].shape
        (['B', 'B', 'B', 'B', 'B'], (5, 2))
        """
        annotation.check_cells(self.obs_names, adata, "refinement", "refined")
        table = self.probabilities().rename(columns=annotation.storable)
        colors = list(label_colors(self.classes).values())
        if self.taxonomy is not None and self.nodes is not None:  # those of any annotation
            by_label = tree_colors(self.taxonomy.labels, self.taxonomy.parent)
            colors = [by_label[self.taxonomy.label(int(node))] for node in self.nodes]
        columns = {"label": self.labels, "confidence": self.confidence, "changed": self.changed}
        added = Additions(
            obs={name: each.array for name, each in columns.items()},
            obsm={"probabilities": table},
            uns={"label_colors": colors},
        )
        notes = {name: str(value) for name, value in self.parameters.items()}
        added.write(adata, key_added, notes, overwrite=overwrite)

    def __repr__(self) -> str:
        return (
            f"Refinement of {len(self.obs_names)} cells over {len(self.classes)} classes: "
            f"{int(self.changed.sum())} labels changed "
            f"(λ {self.parameters['lam']:.3g})"
        )


def refine(
    adata: AnnData | AlignedQuery,
    probabilities: str | pd.DataFrame | ArrayLike | Annotation,
    *,
    classes: Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
    lam: float | Literal["auto"] = "auto",
    use_rep: str | NDArray[np.floating] = "X_pca",
    neighbors_key: str | None = None,
    n_neighbors: int = 15,
    batch_key: str | None = None,
    key_added: str | None = None,
) -> Refinement:
    """Let cells that resemble each other settle their labels together.

    A classifier judges each cell alone. Here the neighbours of a cell in expression space give it
    a class prior of its own. Any classifier will do; labels are never read.

    Parameters
    ----------
    adata
        The cells, as an AnnData or as an opened query.
    probabilities
        Scores of the classifier: key of ``obsm``, table, array ``(n_cells, n_classes)`` or
        ``Annotation``. Rows that sum to 1 are probabilities, all others logits.
    classes
        Names of the columns of an array.
    taxonomy
        Tree in which the classes are nodes; an ``Annotation`` brings its own. Only the finest
        classes are refined, what is above them adds up.
    lam
        Weight of the neighbourhood against 1 for the overall class frequencies; ``"auto"``
        estimates it without labels and comes near 0 on a graph that says nothing. 0 changes
        nothing.
    use_rep
        Key of ``obsm``, or coordinates ``(n_cells, d)``, from which the graph is built. For an
        opened query, ``"X_pca"`` is computed by `expression_pca`.
    neighbors_key
        Take this graph of `scanpy.pp.neighbors` instead.
    n_neighbors
        Neighbours per cell (with ``batch_key``: in each batch).
    batch_key
        Column of ``obs``. Neighbours are then found within batches, and between them by mutual
        pairs; both kinds are weighed by what they turn out to know.
    key_added
        Write the result to the AnnData under this prefix; nothing is written by default.

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
    The method is our decision; `hdeepinsight.graph.refine_by_local_prior` states it. A cluster
    whose average score is wrong stays wrong. Refined probabilities are not calibrated, and a cell's
    label depends on which other cells are there.

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
    target = as_anndata(adata, key_added)
    if lam != "auto":
        check_number("lam", lam, hint="Pass 'auto' to estimate it.")
    scores = class_scores(adata, probabilities, classes=classes, taxonomy=taxonomy)
    graphs = cell_graphs(
        adata,
        use_rep=use_rep,
        neighbors_key=neighbors_key,
        n_neighbors=n_neighbors,
        batch_key=batch_key,
    )
    n_edges, degree = sum(graph.nnz for graph in graphs), sum(map(degrees, graphs))
    before = scores.probabilities()
    refined, weights = refine_by_local_prior(graphs, before, lam=None if lam == "auto" else lam)
    overall = max(float(weights[0]), 1e-12)
    result = Refinement(
        obs_names=pd.Index(adata.obs_names),
        classes=scores.classes,
        before=before,
        after=before if lam == 0 else refined,
        parameters={
            "lam": (1 - overall) / overall if lam == "auto" else lam,
            "lam_estimated": lam == "auto",
            "weights": weights.tolist(),
            "mean_degree": float(np.mean(degree)),
            "share_isolated": float(np.mean(degree == 0)),
            "share_within_batches": graphs[0].nnz / max(n_edges, 1) if batch_key else None,
        },
        taxonomy=scores.taxonomy,
        nodes=scores.nodes,
    )
    flips = result.diagnose()
    before, after = flips["kept"] + flips["lost"], flips["kept"] + flips["gained"]
    shrunk = (before >= _MIN_CELLS_TO_WARN) & (2 * after < before)
    if shrunk.any():
        listed = ", ".join(
            f"{name} ({before[name]} → {after[name]})" for name in before[shrunk].index
        )
        warnings.warn(
            f"{int(shrunk.sum())} classes lost more than half of their cells: {listed}. Look at "
            "`diagnose()`, and lower lam if these cells are not wrong.",
            UserWarning,
            stacklevel=2,
        )
    if target is not None:
        result.to_adata(target, str(key_added))
    return result
