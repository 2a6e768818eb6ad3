"""One explanation under way: the network, the background and what is asked."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from hdeepinsight.explanation import BalancedDraws, Method, expected_gradients
from hdeepinsight.explanation._checks import shap_values
from hdeepinsight.explanation._collect import Part
from hdeepinsight.models.schdeepinsight._calibration import as_array
from hdeepinsight.nn import freeze_norms

if TYPE_CHECKING:
    from torch import Tensor

    from hdeepinsight.explanation import Questions
    from hdeepinsight.models.schdeepinsight._explanation_background import Background
    from hdeepinsight.models.schdeepinsight._module import GeneImageClassifier

DEFAULT_SAMPLES = 50


class ExplanationRun:
    """Explain mini-batches of cells that were measured in the same genes.

    Parameters
    ----------
    module
        The network; it is not changed.
    measured
        1 where the query has a gene, shape ``(n_genes,)``.
    questions
        What is asked.
    background
        Cells to compare with.
    every
        Ask every question of every cell; otherwise each cell is asked about its own node.
    method, n_samples, seed, batch_size
        As in :meth:`SCHDeepInsight.explain`.
    """

    def __init__(
        self,
        module: GeneImageClassifier,
        measured: Tensor,
        questions: Questions,
        background: Background,
        *,
        every: bool,
        method: Method,
        n_samples: int | None,
        seed: int,
        batch_size: int,
    ) -> None:
        self.module = _frozen(module)
        self.measured, self.questions = measured, questions
        self.every, self.method, self.n_samples = every, method, n_samples
        self.seed, self.batch_size = seed, batch_size
        self.weights = torch.from_numpy(questions.weights).to(measured)
        self.background = self.normalize(background.counts.toarray())
        self.draws = BalancedDraws(
            background.per_type,
            background.n_types,
            n_samples=DEFAULT_SAMPLES if n_samples is None else n_samples,
            seed=seed,
        )
        self.base_values = as_array(self._known_scores(self.background).mean(0) @ self.weights.T)

    @torch.no_grad()
    def normalize(self, counts: np.ndarray) -> Tensor:
        """Scaled expression of raw counts, as the network sees the query's genes."""
        raw = torch.from_numpy(counts.astype(np.float32, copy=False)).to(self.measured)
        values: Tensor = self.module.normalizer(raw, self.measured)
        return values

    def scores(self, values: Tensor) -> Tensor:
        """Compute what the questions weigh, one number an edge, ``(n_cells, n_edges)``."""
        logits = self.module.read(values, self.measured)["logits"]
        if self.questions.target == "logit":
            return logits / self.module.temperature[self.module.tree.edge_depth - 1]
        found: Tensor = self.module.generative(logits)["conditional"]
        return found

    def explain(self, counts: np.ndarray) -> Part:
        """Explain a mini-batch of raw counts, shape ``(n_cells, n_genes)``."""
        values = self.normalize(counts)
        n_cells, n_questions = len(counts), len(self.questions)
        holds = self.questions.holds[self._leaves(values)]
        cell, question = np.arange(n_cells), holds.argmax(axis=1)
        if self.every:
            cell, question = np.tile(cell, n_questions), np.repeat(np.arange(n_questions), n_cells)
        weights = self.weights[torch.from_numpy(question).to(values.device)]
        weights = weights.view(-1, n_cells, weights.shape[1])
        found = self._attributions(counts, values, weights)
        return Part(
            question=question,
            cell=cell,
            own=holds[cell, question],
            values=as_array(found.flatten(0, 1)),
            outputs=as_array((self._known_scores(values) * weights).sum(2).flatten()),
            expression=as_array(values),
        )

    def _attributions(self, counts: np.ndarray, values: Tensor, weights: Tensor) -> Tensor:
        """Attributions ``(n_questions, n_cells, n_genes)``; weights ``(..., n_edges)`` likewise."""
        if self.method != "expected_gradients":
            return torch.stack([self._checked(values, part) for part in weights])
        return expected_gradients(
            self.scores,
            values,
            self.background,
            self.draws.of(counts).to(values.device),
            weights,
            batch_size=self.batch_size,
        )

    def _checked(self, values: Tensor, weights: Tensor) -> Tensor:
        """Attributions by shap; it explains one function at a time."""
        found = torch.zeros_like(values)
        for weight in np.unique(weights.cpu().numpy(), axis=0):
            asked = torch.from_numpy(weight).to(weights)
            rows = (weights == asked).all(dim=1)
            found[rows] = shap_values(
                self.method,
                partial(self._output, asked),
                values[rows],
                self.background,
                n_samples=self.n_samples,
                seed=self.seed,
                batch_size=self.batch_size,
            )
        return found

    def _output(self, weight: Tensor, values: Tensor) -> Tensor:
        return self.scores(values) @ weight

    @torch.no_grad()
    def _known_scores(self, values: Tensor) -> Tensor:
        starts = range(0, len(values), self.batch_size)
        return torch.cat([self.scores(values[i : i + self.batch_size]) for i in starts])

    @torch.no_grad()
    def _leaves(self, values: Tensor) -> np.ndarray:
        """Position of the most probable leaf of every cell, as :meth:`annotate` decodes it."""
        tree = self.module.tree
        logits = self.module.read(values, self.measured)["logits"]
        log_probs = tree.node_log_probs(self.module.generative(logits)["conditional"])
        return np.asarray(log_probs[:, tree.leaf_index].argmax(dim=1).cpu().numpy())


def _frozen(module: GeneImageClassifier) -> GeneImageClassifier:
    """Copy that only predicts, and is quick to differentiate by its inputs."""
    copied = deepcopy(module).eval().requires_grad_(False)
    freeze_norms(copied)
    return copied
