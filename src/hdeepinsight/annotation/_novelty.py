"""Whether a cell is of a type that the reference has, judged on its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from hdeepinsight.annotation._conformal import check_nodes
from hdeepinsight.taxonomy import Taxonomy

NoveltyLevel = Literal["lineage", "type"]


class FeatureCells(NamedTuple):
    """Cells as the network sees them.

    Attributes
    ----------
    latent
        Features, shape ``(n_cells, n_latent)``.
    depth
        Total counts of every cell, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.annotation import FeatureCells
    >>> cells = FeatureCells(latent=np.zeros((3, 8)), depth=np.array([900.0, 1500.0, 4000.0]))
    >>> cells.latent.shape, cells.depth.shape
    ((3, 8), (3,))
    """

    latent: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class NoveltyDetector:
    """Absolute novelty of cells: what is said of one does not depend on the others.

    Two scores are compared with those of held-out reference cells at the same depth of
    sequencing. *Recognition* asks one classifier per lineage whether the cell is one of its own,
    against all others: unlike shares of a softmax, all of them may say no. *Distance* is the
    Mahalanobis distance to the nearest type, with one shrunk covariance within types.

    Parameters
    ----------
    location, scale
        Mean and standard deviation of the features, shape ``(n_latent,)``.
    weights, bias
        Lineage classifiers on standardised features, shapes ``(n_lineages, n_latent)`` and
        ``(n_lineages,)``.
    centres
        Mean of every type after `whitening`, shape ``(n_types, n_latent)``.
    whitening
        Factor of the inverse covariance, shape ``(n_latent, n_latent)``.
    depth_range
        Smallest and largest logarithm of the depth of the calibration cells, shape ``(2,)``.
    centre_by_depth, spread_by_depth
        Quadratic in the logarithm of depth for the two scores, shape ``(2, 3)``.
    least_spread
        Lower bound of the spread, shape ``(2,)``.
    lineage_calibration, calibration
        Sorted scores of held-out cells: of recognition, and of both together; ``(n_held_out,)``.

    Examples
    --------
    Two types, and a cell far from both:

    >>> import numpy as np
    >>> from hdeepinsight.annotation import FeatureCells, NoveltyDetector
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": [], "B": []})
    >>> rng = np.random.default_rng(0)
    >>> is_b = np.arange(100) % 2
    >>> known, held_out = (
    ...     FeatureCells(rng.normal(size=(100, 2)) + 6 * is_b[:, None], rng.uniform(1e3, 5e3, 100))
    ...     for _ in range(2)
    ... )
    >>> nodes = tree.encode(np.array(["T", "B"])[is_b])
    >>> detector = NoveltyDetector.fit(tree, known, nodes, held_out)
    >>> detector
    NoveltyDetector of 2 types and 2 lineages, calibrated on 100 views of held-out cells
    >>> query = FeatureCells(np.array([[0.0, 0.0], [20.0, -20.0]]), np.array([2e3, 2e3]))
    >>> (detector.measure(query)["p_value"] < 0.05).tolist()
    [False, True]

    Notes
    -----
    The two standardised scores are added because that was best on development data: of eighteen
    scores and their sums (nearest neighbours, energy, entropy, residual subspaces, expression
    profiles, ...) none was best everywhere, and each failed somewhere alone; see the user guide.

    References
    ----------
    Lee, Lee, Lee and Shin (2018), A simple unified framework for detecting out-of-distribution
    samples, for the distance; Ledoit and Wolf (2004) for its covariance. The sum, and what depth
    does to it, are our decision.
    """

    location: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    centres: np.ndarray
    whitening: np.ndarray
    depth_range: np.ndarray
    centre_by_depth: np.ndarray
    spread_by_depth: np.ndarray
    least_spread: np.ndarray
    lineage_calibration: np.ndarray
    calibration: np.ndarray

    @classmethod
    def fit(
        cls, taxonomy: Taxonomy, reference: FeatureCells, nodes: np.ndarray, held_out: FeatureCells
    ) -> NoveltyDetector:
        """Learn types and lineages from reference cells, and what is usual from held-out ones.

        Parameters
        ----------
        taxonomy
            The tree.
        reference
            Labelled cells.
        nodes
            Node of every reference cell's label, shape ``(n_cells,)``; unlabelled cells (0) are
            left out.
        held_out
            Cells of the same types that the network was not trained on, best at several depths.

        Raises
        ------
        ValueError
            If the nodes do not fit the reference cells or the taxonomy, or there is no labelled
            reference cell or no held-out cell.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.annotation import FeatureCells, NoveltyDetector
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": [], "B": []})
        >>> latent = np.random.default_rng(0).normal(size=(40, 2))
        >>> from hdeepinsight.annotation import FeatureCells
        >>> cells = FeatureCells(latent, np.full(40, 2e3))
        >>> labels = tree.encode(["T", "B"] * 20)
        >>> NoveltyDetector.fit(tree, cells, labels, held_out=cells).centres.shape
        (2, 2)
        """
        nodes = check_nodes(taxonomy, nodes, len(reference.latent))
        known = np.flatnonzero(nodes > 0)
        if not known.size or not len(held_out.latent):
            raise ValueError(
                f"There are {known.size} labelled reference cells and {len(held_out.latent)} "
                "held-out cells, and at least one of each is needed. Train with "
                "validation_size > 0."
            )
        latent, nodes = reference.latent[known].astype(np.float64), nodes[known]
        location, scale = latent.mean(axis=0), latent.std(axis=0) + 1e-6
        lineages = taxonomy.node_at_level[nodes, 0]
        weights, bias = lineage_classifiers((latent - location) / scale, lineages)
        centres, whitening = whitened_types(latent, nodes)
        learned = NoveltyParams(location, scale, weights, bias, centres, whitening)
        seen = fit_depth_trend(raw_scores(held_out.latent, learned), held_out.depth)
        return cls(**learned._asdict(), **seen)

    def measure(self, cells: FeatureCells) -> dict[str, np.ndarray]:
        """Compare cells with the reference.

        Parameters
        ----------
        cells
            Features and depths of any cells.

        Returns
        -------
        Arrays of shape ``(n_cells,)``. ``score``: the two standardised scores together, larger
        for more novel cells. ``p_value``: share of held-out reference cells that are as novel.
        ``lineage_p_value``: the same for recognition alone.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.annotation import FeatureCells, NoveltyDetector
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": [], "B": []})
        >>> latent = np.random.default_rng(0).normal(size=(40, 2))
        >>> from hdeepinsight.annotation import FeatureCells
        >>> cells = FeatureCells(latent, np.full(40, 2e3))
        >>> detector = NoveltyDetector.fit(tree, cells, tree.encode(["T", "B"] * 20), cells)
        >>> {name: values.shape for name, values in detector.measure(cells).items()}
        {'score': (40,), 'p_value': (40,), 'lineage_p_value': (40,)}
        """
        learned = NoveltyParams(*(getattr(self, name) for name in NoveltyParams._fields))
        scores = standardise(
            raw_scores(cells.latent, learned),
            np.clip(log_depth(cells.depth), *self.depth_range),
            self.centre_by_depth,
            self.spread_by_depth,
            self.least_spread,
        )
        both = together(scores)
        return {
            "score": both,
            "p_value": p_values(both, self.calibration),
            "lineage_p_value": p_values(scores[0], self.lineage_calibration),
        }

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return the arrays by name.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.annotation import FeatureCells, NoveltyDetector
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": [], "B": []})
        >>> latent = np.random.default_rng(0).normal(size=(40, 2))
        >>> from hdeepinsight.annotation import FeatureCells
        >>> cells = FeatureCells(latent, np.full(40, 2e3))
        >>> detector = NoveltyDetector.fit(tree, cells, tree.encode(["T", "B"] * 20), cells)
        >>> detector.to_dict()["centres"].shape
        (2, 2)
        """
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NoveltyDetector:
        """Make one from what :meth:`to_dict` gave; tensors are as good as arrays.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.annotation import FeatureCells, NoveltyDetector
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": [], "B": []})
        >>> latent = np.random.default_rng(0).normal(size=(40, 2))
        >>> from hdeepinsight.annotation import FeatureCells
        >>> cells = FeatureCells(latent, np.full(40, 2e3))
        >>> detector = NoveltyDetector.fit(tree, cells, tree.encode(["T", "B"] * 20), cells)
        >>> NoveltyDetector.from_dict(detector.to_dict())
        NoveltyDetector of 2 types and 2 lineages, calibrated on 40 views of held-out cells
        """
        return cls(**{name: np.asarray(value) for name, value in data.items()})

    def __repr__(self) -> str:
        return (
            f"NoveltyDetector of {len(self.centres)} types and {len(self.weights)} lineages, "
            f"calibrated on {len(self.calibration)} views of held-out cells"
        )


BEST_RECOGNISED = -2.0
"""Recognition beyond this makes no cell more usual: else it would excuse any distance."""
STRENGTH = 1e-3
"""Inverse penalty of the lineage classifiers: features are many and their labels well learned."""


class NoveltyParams(NamedTuple):
    """What is learned from labelled cells; the first parameters of `NoveltyDetector`."""

    location: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    centres: np.ndarray
    whitening: np.ndarray


def lineage_classifiers(latent: np.ndarray, lineages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit one logistic regression per lineage, against all others; none for a single lineage."""
    names = np.unique(lineages)
    weights, bias = np.zeros((len(names), latent.shape[1])), np.zeros(len(names))
    if len(names) == 1:
        return weights[:0], bias[:0]
    for row, name in enumerate(names):
        model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=500)
        model.fit(latent, lineages == name)
        weights[row], bias[row] = model.coef_[0], model.intercept_[0]
    return weights, bias


def whitened_types(latent: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the whitened mean of every labelled node, and the whitening."""
    names, index = np.unique(nodes, return_inverse=True)
    means = np.stack([latent[index == row].mean(axis=0) for row in range(len(names))])
    covariance, _ = ledoit_wolf(latent - means[index], assume_centered=True)
    # Features that never vary (dead units) leave the covariance singular where all cells agree.
    covariance[np.diag_indices_from(covariance)] += 1e-6 * np.trace(covariance) / len(covariance)
    covariance[np.diag_indices_from(covariance)] += 1e-12
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return means @ whitening, whitening


def raw_scores(latent: np.ndarray, learned: NoveltyParams) -> np.ndarray:
    """Return recognition and logarithm of distance, larger for novel cells, ``(2, n_cells)``."""
    latent = latent.astype(np.float64)
    white = latent @ learned.whitening
    nearest = np.full(len(latent), np.inf)
    for centre in learned.centres:
        nearest = np.minimum(nearest, ((white - centre) ** 2).sum(axis=1))
    distance = np.log(nearest + 1e-12)
    if not len(learned.weights):
        return np.stack([distance, distance])
    recognised = (latent - learned.location) / learned.scale @ learned.weights.T + learned.bias
    return np.stack([-recognised.max(axis=1), distance])


def log_depth(depth: np.ndarray) -> np.ndarray:
    """Return the depth on the scale on which scores follow it, shape ``(n_cells,)``."""
    return np.log1p(np.asarray(depth, dtype=np.float64))


def fit_depth_trend(raw: np.ndarray, depth: np.ndarray) -> dict[str, np.ndarray]:
    """Fit how the scores of held-out cells depend on depth, and sort what is left of them."""
    x = log_depth(depth)
    powers = np.stack([np.ones_like(x), x, x**2])
    centre = np.stack([np.linalg.lstsq(powers.T, row, rcond=None)[0] for row in raw])
    residuals = np.abs(raw - centre @ powers)
    spread = np.stack([np.linalg.lstsq(powers.T, row, rcond=None)[0] for row in residuals])
    least = 0.2 * residuals.mean(axis=1) + 1e-6
    scores = standardise(raw, x, centre, spread, least)
    return {
        "depth_range": np.array([x.min(), x.max()]),
        "centre_by_depth": centre,
        "spread_by_depth": spread,
        "least_spread": least,
        "lineage_calibration": np.sort(scores[0]),
        "calibration": np.sort(together(scores)),
    }


def standardise(
    raw: np.ndarray, x: np.ndarray, centre: np.ndarray, spread: np.ndarray, least: np.ndarray
) -> np.ndarray:
    """Return how many spreads each score lies above what is usual at the cell's depth."""
    powers = np.stack([np.ones_like(x), x, x**2])
    return np.asarray((raw - centre @ powers) / np.maximum(spread @ powers, least[:, None]))


def together(scores: np.ndarray) -> np.ndarray:
    """Add both standardised scores, shape ``(n_cells,)``."""
    return np.asarray(np.maximum(scores[0], BEST_RECOGNISED) + scores[1])


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Return the share of calibration scores, the cell's among them, that are as large."""
    above = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return np.asarray((1 + above) / (len(calibration) + 1))
