"""How scores are refined once the graphs are there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import softmax

from hdeepinsight.graph import (
    LaplacianKind,
    degrees,
    dirichlet_energy,
    refine_by_local_prior,
    smooth,
)
from hdeepinsight.tl._graphs import joined
from hdeepinsight.tl._refinement import Refinement

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.tl._scores import ClassScores

logger = logging.getLogger(__name__)

Method = Literal["local_prior", "laplacian"]
Scale = Literal["logit", "logprob", "prob"]
RefineSolver = Literal["auto", "direct", "cg", "torch"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How scores are refined once the graphs are there."""

    method: Method = "local_prior"
    lam: float | Literal["auto"] = "auto"
    n_rounds: int = 2
    laplacian: LaplacianKind = "rw"
    scale: Scale | None = None
    floor: float = 1e-12
    temperature: float = 1.0
    solver: RefineSolver = "auto"
    tol: float = 1e-5
    max_iter: int = 200

    def __post_init__(self) -> None:
        self._check_choice("method", self.method, get_args(Method))
        self._check_choice("laplacian", self.laplacian, get_args(LaplacianKind))
        self._check_choice("scale", self.scale, (None, *get_args(Scale)))
        self._check_choice("solver", self.solver, get_args(RefineSolver))
        if isinstance(self.lam, str) and self.lam != "auto":
            raise ValueError(f"Found lam={self.lam!r}. Valid are 'auto' and numbers. Pass one.")
        if self.method == "laplacian" and self.lam == "auto":
            raise ValueError(
                "Found lam='auto' with method='laplacian', whose best strength cannot be told "
                "without labels. Valid is a number from 0. Pass one, such as 1, and look at "
                "hdi.tl.lambda_path; or take method='local_prior'."
            )
        if not 0 < self.floor < 1:
            raise ValueError(
                f"Found floor={self.floor}. Valid is a probability between 0 and 1, both excluded. "
                "Take 1e-12 if in doubt."
            )
        if not 0 < self.temperature < np.inf:
            raise ValueError(
                f"Found temperature={self.temperature}. Valid is a positive number. Pass one."
            )

    def _check_choice(self, name: str, value: Any, valid: tuple[Any, ...]) -> None:
        if value not in valid:
            raise ValueError(f"Found {name}={value!r}. Valid are {list(valid)}. Choose one.")


def run(
    obs_names: pd.Index,
    scores: ClassScores,
    graphs: list[sp.csr_matrix],
    settings: Settings,
    *,
    by_batch: bool,
) -> Refinement:
    """Refine scores on graphs that are there already."""
    graph = joined(graphs)
    parameters: dict[str, Any] = {**vars(settings), **_describe(graph, graphs, by_batch)}
    if settings.method == "local_prior":
        before, after, found = _by_local_prior(scores, graphs, settings)
        smooth_before, smooth_after = before, after
    else:
        settings = replace(settings, scale=_scale(scores, settings.scale))
        smooth_before, smooth_after = _by_laplacian(scores, graph, settings)
        before, after = (_distribution(each, settings) for each in (smooth_before, smooth_after))
        found = {"lam": float(settings.lam), "scale": settings.scale}
    parameters |= found
    parameters["effective_strength"] = parameters["lam"] * parameters["mean_degree"]
    return Refinement(
        obs_names=obs_names,
        classes=scores.classes,
        before=before,
        after=after,
        energy_before=dirichlet_energy(graph, smooth_before, settings.laplacian),
        energy_after=dirichlet_energy(graph, smooth_after, settings.laplacian),
        parameters=parameters,
        taxonomy=scores.taxonomy,
        nodes=scores.nodes,
    )


def _describe(
    graph: sp.csr_matrix, graphs: list[sp.csr_matrix], by_batch: bool
) -> dict[str, float | None]:
    degree = degrees(graph)
    return {
        "mean_degree": float(degree.mean()) if len(degree) else 0.0,
        "share_isolated": float((degree == 0).mean()) if len(degree) else 0.0,
        "share_within_batches": graphs[0].nnz / max(graph.nnz, 1) if by_batch else None,
    }


def _by_local_prior(
    scores: ClassScores, graphs: list[sp.csr_matrix], settings: Settings
) -> tuple[Floats, Floats, dict[str, Any]]:
    before = scores.probabilities(settings.temperature)
    lam = None if settings.lam == "auto" else settings.lam
    refined = refine_by_local_prior(
        graphs, before, lam=lam, n_rounds=settings.n_rounds, floor=settings.floor
    )
    overall = max(float(refined.weights[0]), 1e-12)
    used = (1 - overall) / overall if lam is None else lam
    after = before if lam == 0 else refined.probabilities
    found = {"lam": used, "weights": refined.weights.tolist(), "lam_estimated": lam is None}
    return before, after, found


def _scale(scores: ClassScores, scale: Scale | None) -> Scale:
    if scale is None:
        scale = "logprob" if scores.are_probabilities else "logit"
        logger.info("Scores are %s.", "probabilities" if scale == "logprob" else "logits")
    elif scale != "logit" and not scores.are_probabilities:
        raise ValueError(
            f"Found scores that are no distributions with scale={scale!r}. Valid are rows that "
            "sum to 1. Take the softmax of logits, or leave scale out."
        )
    return scale


def _by_laplacian(
    scores: ClassScores, graph: sp.csr_matrix, settings: Settings
) -> tuple[Floats, Floats]:
    start = scores.values
    if settings.scale == "logprob":
        start = np.log(np.maximum(start, settings.floor))
    lam = float(settings.lam)
    if settings.solver == "torch":
        return start, _smooth_by_torch(graph, start, lam, settings)
    return start, smooth(
        graph,
        start,
        lam=lam,
        laplacian=settings.laplacian,
        solver=settings.solver,
        tol=settings.tol,
        max_iter=settings.max_iter,
    )


def _smooth_by_torch(graph: sp.csr_matrix, start: Floats, lam: float, settings: Settings) -> Floats:
    import torch

    from hdeepinsight.graph import GraphRefinement

    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = sp.triu(graph, k=1).tocoo()
    edges = torch.from_numpy(np.stack([half.row, half.col]).astype(np.int64))
    layer = GraphRefinement(
        edges,
        len(start),
        laplacian=settings.laplacian,
        tol=settings.tol,
        max_iter=settings.max_iter,
    ).to(device)
    inputs = (torch.tensor(each, dtype=torch.float64) for each in (start, half.data, lam))
    with torch.no_grad():
        return np.asarray(layer(*(each.to(device) for each in inputs)).cpu().numpy())


def _distribution(values: Floats, settings: Settings) -> Floats:
    """Scores as distributions; the symmetric Laplacian's are scaled for display alone."""
    if settings.scale == "prob":
        positive = np.maximum(values, 0.0)
        return np.asarray(positive / positive.sum(axis=1, keepdims=True))
    return np.asarray(softmax(values / settings.temperature, axis=1))
