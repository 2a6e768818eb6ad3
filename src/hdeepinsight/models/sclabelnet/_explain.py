"""Which genes a label rests on, against the same genes with unknown values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hdeepinsight.adaptation import use_adapters
from hdeepinsight.explanation import AttributionAccumulator, Explanation, Targets

if TYPE_CHECKING:
    from hdeepinsight.data import AlignedQuery

CELLS = 32
BASELINE = "the same genes, expressed to an unknown degree"


def explain_tokens(
    module: Any,
    query: AlignedQuery,
    targets: Targets,
    *,
    batch: np.ndarray,
    every: bool,
    n_steps: int,
    keep_values: bool,
    note: str = "",
) -> Explanation:
    r"""Explain all cells of a query by integrated gradients over the values of their tokens.

    Parameters
    ----------
    module
        Network on gene tokens.
    query
        The query, aligned to the genes of the network.
    targets
        What is explained.
    batch
        Batch per cell, of which the network has adapters, shape ``(n_cells,)``; -1 for none.
    every
        Explain every target for every cell; otherwise each cell is explained for its own node.
    n_steps
        Points between unknown and known values; the error falls with it.
    keep_values
        Keep the attributions of single cells.
    note
        What the result says beside its figures.

    Notes
    -----
    With :math:`\Delta_g` the vector of a token's value less that of ``mask``,
    :math:`\varphi_g = \int_0^1 \langle \partial F / \partial t_g, \Delta_g \rangle\, ds`, all
    tokens moved together. Genes that are not expressed have no token and get 0.
    """
    names = query.obs_names, query.genes
    found = AttributionAccumulator(targets, *names, every=every, keep_values=keep_values)
    device = module.temperature.device
    measured = torch.tensor(query.measured, dtype=torch.float32, device=device)
    n_empty = 0
    for rows, counts in query.chunks():
        cells = np.arange(rows.start, rows.stop)
        full = np.flatnonzero(np.diff(counts.indptr))
        n_empty += len(cells) - len(full)
        for some in np.split(full, range(CELLS, len(full), CELLS)):
            if len(some):
                part = torch.from_numpy(counts[some].toarray()).to(device)
                with use_adapters(module, batch[cells[some]]):
                    chunk = _explain(module, part, measured, targets, every, n_steps)
                found.add(cells[some], chunk)
    if n_empty:
        note += f" {n_empty:,} of {query.n_obs:,} cells have no counts and were left out."
    nothing = np.zeros(len(query.genes))
    return found.finish(background_expression=nothing, background=BASELINE, note=note.strip())


def _explain(
    module: Any, counts: Tensor, measured: Tensor, targets: Targets, every: bool, n_steps: int
) -> dict[str, np.ndarray]:
    """Return what :meth:`AttributionAccumulator.add` takes, of some cells."""
    tokens, tree, encoder = module.tokens(counts, measured), module.tree, module.backbone

    def outputs(embedded: Tensor) -> tuple[Tensor, Tensor]:
        latent = encoder.pool(encoder.hidden(embedded, tokens.real), tokens.real)
        logits = module.logits(latent)
        conditional = module.generative(logits)["conditional"]
        if targets.kind != "logit":
            return conditional, conditional
        return logits / module.temperature[tree.edge_depth - 1], conditional

    with torch.no_grad():
        known, unknown = encoder.embed(tokens), encoder.embed(tokens, tokens.real)
        change = known - unknown
        scores, conditional = outputs(known)
        base = outputs(unknown)[0]
        leaves = tree.node_log_probs(conditional)[:, tree.leaf_index].argmax(1).cpu().numpy()
    is_member = targets.is_member[leaves]
    n_cells, n_targets = len(counts), len(targets)
    cell, target = np.arange(n_cells), is_member.argmax(axis=1)
    if every:
        cell, target = np.tile(cell, n_targets), np.repeat(np.arange(n_targets), n_cells)
    weights = torch.from_numpy(targets.weights).to(scores)[torch.from_numpy(target)]
    weights = weights.view(-1, *scores.shape)
    values = counts.new_zeros(len(weights), *counts.shape)
    for step in range(n_steps):
        point = (unknown + (step + 0.5) / n_steps * change).requires_grad_()
        with torch.enable_grad():
            at = outputs(point)[0]
        for row, weight in zip(values, weights, strict=True):
            (slope,) = torch.autograd.grad(at, point, weight, retain_graph=True)
            row.scatter_add_(1, tokens.genes, (slope * change).sum(2) / n_steps)
    return {
        "target": target,
        "cell": cell,
        "own": is_member[cell, target],
        "values": values.flatten(0, 1).cpu().numpy(),
        "outputs": (scores * weights).sum(2).flatten().cpu().numpy(),
        "base_values": (base * weights).sum(2).flatten().cpu().numpy(),
        "expression": module.normalizer(counts, measured).cpu().numpy(),
    }
