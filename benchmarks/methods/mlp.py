"""A plain network on the shared gene list, with and without gene masking."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.nn import functional as F

from .interface import Cells, Prediction, Reference

BATCH_SIZE = 256


class MLP:
    """Two hidden layers, AdamW, early stopping on the log-loss of a tenth of the reference.

    Parameters
    ----------
    masking
        Hide genes in training: three cells in ten stay whole, the others lose up to half of their
        genes at a rate of their own. Counts are hidden before normalisation, so that a masked cell
        looks like one of a query that lacks those genes.
    """

    def __init__(self, *, seed: int, threads: int, folder: Path, masking: bool = False):
        del folder
        torch.set_num_threads(threads)
        self.seed, self.masking = seed, masking
        self.extra: dict = {}

    def fit(self, reference: Reference) -> None:
        """Train until the held-out log-loss has not fallen for 12 epochs, at most 100."""
        torch.manual_seed(self.seed)
        self.genes = reference.selected
        counts = reference.aligned(self.genes)[0]
        self.scale = _scale(counts)
        self.net = _network(counts.shape[1], len(reference.tree.classes))
        n_cells = counts.shape[0]
        order = np.random.default_rng(self.seed).permutation(n_cells)
        held_out = np.isin(np.arange(n_cells), order[: max(1, n_cells // 10)])
        codes = torch.as_tensor(reference.codes)
        self._train(counts[~held_out], codes[~held_out], counts[held_out], codes[held_out])

    def annotate(self, query: Cells) -> Prediction:
        """Predict classes and their probabilities."""
        log_probabilities = self._log_probabilities(query.aligned(self.genes)[0])
        return Prediction(
            codes=log_probabilities.argmax(dim=1).numpy(),
            probabilities=log_probabilities.exp().numpy(),
        )

    def _train(self, counts, codes, held_counts, held_codes) -> None:
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-3, weight_decay=1e-4)
        best, best_state, best_epoch = np.inf, None, 0
        for epoch in range(100):
            self._epoch(counts, codes, optimiser)
            loss = F.nll_loss(self._log_probabilities(held_counts), held_codes).item()
            if loss < best:
                best, best_epoch = loss, epoch
                best_state = copy.deepcopy(self.net.state_dict())
            if epoch - best_epoch >= 12:
                break
        self.net.load_state_dict(best_state)
        self.extra = {"best_epoch": best_epoch}

    def _epoch(self, counts, codes, optimiser) -> None:
        self.net.train()
        for rows in torch.randperm(len(codes)).split(BATCH_SIZE):
            if len(rows) < 2:  # batch normalisation needs two cells
                continue
            x = torch.from_numpy(counts[rows.numpy()].toarray())
            x = _mask(x) if self.masking else x
            loss = F.cross_entropy(self.net(self._inputs(x)), codes[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def _log_probabilities(self, counts: sparse.csr_matrix) -> torch.Tensor:
        self.net.eval()
        chunks = [
            self.net(self._inputs(torch.from_numpy(counts[start : start + 4096].toarray())))
            for start in range(0, counts.shape[0], 4096)
        ]
        return torch.cat(chunks).log_softmax(dim=1)

    def _inputs(self, counts: torch.Tensor) -> torch.Tensor:
        return _log_cp10k(counts) / self.scale


def _network(n_genes: int, n_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_genes, 256),
        nn.BatchNorm1d(256),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(256, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(128, n_classes),
    )


def _log_cp10k(counts: torch.Tensor) -> torch.Tensor:
    return torch.log1p(1e4 * counts / counts.sum(dim=1, keepdim=True).clamp(min=1))


def _scale(counts: sparse.csr_matrix) -> torch.Tensor:
    """Get the standard deviation a gene of log-normalised values; dividing by it keeps 0 at 0."""
    values = _log_cp10k(torch.from_numpy(counts[:20_000].toarray()))
    return values.std(dim=0).clamp(min=0.05)


def _mask(counts: torch.Tensor) -> torch.Tensor:
    n_cells = counts.shape[0]
    rate = 0.5 * torch.rand(n_cells, 1) * (torch.rand(n_cells, 1) > 0.3)
    return counts * (torch.rand_like(counts) >= rate)
