"""What makes a cell strange: how far it is from every type, and whether a lineage knows it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
    """One logistic regression a lineage, against all others; none where there is one lineage."""
    from sklearn.linear_model import LogisticRegression

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
    """Whitened mean of every labelled node, and the whitening."""
    from sklearn.covariance import ledoit_wolf

    names, index = np.unique(nodes, return_inverse=True)
    means = np.stack([latent[index == row].mean(axis=0) for row in range(len(names))])
    covariance, _ = ledoit_wolf(latent - means[index], assume_centered=True)
    # Features that never vary (dead units) leave the covariance singular where all cells agree.
    covariance[np.diag_indices_from(covariance)] += 1e-6 * np.trace(covariance) / len(covariance)
    covariance[np.diag_indices_from(covariance)] += 1e-12
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return means @ whitening, whitening


def raw_scores(latent: np.ndarray, learned: NoveltyParams) -> np.ndarray:
    """Recognition and logarithm of distance, larger for stranger cells, shape ``(2, n_cells)``."""
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
    """Depth of sequencing on the scale on which scores follow it, shape ``(n_cells,)``."""
    return np.log1p(np.asarray(depth, dtype=np.float64))


def fit_depth_trend(raw: np.ndarray, depth: np.ndarray) -> dict[str, np.ndarray]:
    """How the scores of held-out cells depend on depth, and what is left of them."""
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
    """How many spreads each score is above what is usual at the cell's depth."""
    powers = np.stack([np.ones_like(x), x, x**2])
    return np.asarray((raw - centre @ powers) / np.maximum(spread @ powers, least[:, None]))


def together(scores: np.ndarray) -> np.ndarray:
    """Both standardised scores as one, shape ``(n_cells,)``."""
    return np.asarray(np.maximum(scores[0], BEST_RECOGNISED) + scores[1])


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Share of calibration scores, the cell's own among them, that are at least as large."""
    above = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return np.asarray((1 + above) / (len(calibration) + 1))
