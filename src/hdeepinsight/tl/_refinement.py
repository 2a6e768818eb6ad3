"""The result of a refinement: what changed, and where to look twice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from hdeepinsight import annotation
from hdeepinsight._errors import check_number
from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight._palette import label_colors, tree_colors
from hdeepinsight.annotation import Additions, Annotation

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.taxonomy import Taxonomy


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
    energy_before, energy_after
        Dirichlet energy: how much the scores differ across the edges of the graph.
    parameters
        Settings, and what was measured on the way: ``lam`` (the strength that was used),
        ``weights`` of the sources of the prior, ``mean_degree``, ``effective_strength`` (λ times
        the mean degree), ``share_isolated`` cells and ``share_within_batches`` of edges.
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

    @cached_property
    def class_mass(self) -> pd.DataFrame:
        """Sum of probabilities and number of cells of every class, before and after."""
        n_classes = len(self.classes)
        return pd.DataFrame(
            {
                "mass_before": self.before.sum(axis=0),
                "mass_after": self.after.sum(axis=0),
                "cells_before": np.bincount(self.before.argmax(axis=1), minlength=n_classes),
                "cells_after": np.bincount(self.after.argmax(axis=1), minlength=n_classes),
            },
            index=pd.Index(self.classes, name="class"),
        )

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

    def abstain(self, threshold: float) -> pd.Series:
        """Return labels, with ``"Unknown"`` where :attr:`confidence` is below a threshold.

        Parameters
        ----------
        threshold
            Least difference of the two largest probabilities, from 0 (all labels stay) to 1.

        Raises
        ------
        ValueError
            If the threshold is not in [0, 1].

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> cells = ad.AnnData(obsm={"X_pca": np.zeros((5, 2))})
        >>> p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
        >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], method="laplacian", lam=0.0)
        >>> result.abstain(0.5).tolist()
        ['B', 'B', 'B', 'B', 'Unknown']
        """
        check_number("threshold", threshold, 0, 1)
        unsure = self.confidence < threshold
        return self.labels.astype(str).mask(unsure, LABEL_COLUMNS.ROOT).astype("category")

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
        >>> result = hdi.tl.refine(
        ...     cells, p, classes=names, taxonomy=tree, method="laplacian", lam=5.0
        ... )
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
        >>> result = hdi.tl.refine(cells, p, classes=["B", "T"], method="laplacian", lam=5.0)
        >>> result.to_adata(cells)
        >>> cells.obs["refined_label"].tolist(), cells.obsm["refined_probabilities"].shape
        (['B', 'B', 'B', 'B', 'B'], (5, 2))
        """
        annotation.check_cells(self.obs_names, adata, "refinement", "refined")
        table = self.probabilities().rename(columns=annotation.storable)
        columns = {"label": self.labels, "confidence": self.confidence, "changed": self.changed}
        added = Additions(
            obs={
                annotation.storable(f"{key_added}_{name}"): each.array
                for name, each in columns.items()
            },
            obsm={annotation.storable(f"{key_added}_probabilities"): table},
            uns={annotation.storable(f"{key_added}_label_colors"): self._colors()},
        )
        notes = {name: str(value) for name, value in self.parameters.items()}
        added.write(adata, key_added, notes, overwrite=overwrite)

    def _colors(self) -> list[str]:
        """Return the colour of every class: with a taxonomy that of its label in any annotation."""
        if self.taxonomy is None or self.nodes is None:
            return list(label_colors(self.classes).values())
        colors = tree_colors(self.taxonomy.labels, self.taxonomy.parent)
        return [colors[self.taxonomy.label(int(node))] for node in self.nodes]

    def __repr__(self) -> str:
        return (
            f"Refinement of {len(self.obs_names)} cells over {len(self.classes)} classes: "
            f"{int(self.changed.sum())} labels changed (method {self.parameters['method']}, "
            f"λ {self.parameters['lam']:.3g})"
        )
