"""Which genes a label rests on, against the same genes with unknown values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils import gen_batches
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

    Notes
    -----
    With :math:`\Delta_g` the vector of a token's value less that of ``mask``,
    :math:`\varphi_g = \int_0^1 \langle \partial F / \partial t_g, \Delta_g \rangle\, ds`, all
    tokens moved together. Genes that are not expressed have no token and get 0.
    """
    names, counts = (query.obs_names, query.genes), query.read()
    found = AttributionAccumulator(targets, *names, every=every, keep_values=keep_values)
    measured = torch.tensor(query.measured).to(module.temperature)
    full, note = np.flatnonzero(np.diff(counts.indptr)), ""
    for rows in gen_batches(len(full), CELLS):
        cells = full[rows]
        part = torch.from_numpy(counts[cells].toarray()).to(measured)
        with use_adapters(module, batch[cells]):
            found.add(cells, _explain(module, part, measured, targets, every, n_steps))
    if n_empty := query.n_obs - len(full):
        note = f"{n_empty:,} of {query.n_obs:,} cells have no counts and were left out."
    nothing = np.zeros(len(query.genes))
    return found.finish(background_expression=nothing, background=BASELINE, note=note)


def _explain(
    module: Any, counts: Tensor, measured: Tensor, targets: Targets, every: bool, n_steps: int
) -> dict[str, np.ndarray]:
    """Return what :meth:`AttributionAccumulator.add` takes, of some cells."""
    tokens, tree, encoder = module.tokens(counts, measured), module.tree, module.backbone

    def outputs(embedded: Tensor) -> tuple[Tensor, Tensor]:
        logits = module.logits(encoder.pool(encoder.hidden(embedded, tokens.real), tokens.real))
        conditional = module.generative(logits)["conditional"]
        if targets.kind != "logit":
            return conditional, conditional
        return logits / module.temperature[tree.edge_depth - 1], conditional

    with torch.no_grad():
        known, unknown = encoder.embed(tokens), encoder.embed(tokens, tokens.real)
        (scores, conditional), (base, _) = outputs(known), outputs(unknown)
        leaves = tree.node_log_probs(conditional)[:, tree.leaf_index].argmax(1).cpu().numpy()
    is_member, change = targets.is_member[leaves], known - unknown
    cell, target = np.arange(len(counts)), is_member.argmax(axis=1)
    if every:
        target = np.repeat(np.arange(len(targets)), len(cell))
        cell = np.tile(cell, len(targets))
    weights = torch.from_numpy(targets.weights[target]).to(scores).view(-1, *scores.shape)
    values = counts.new_zeros(len(weights), *counts.shape)
    for step in range(n_steps):
        point = (unknown + (step + 0.5) / n_steps * change).requires_grad_()
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
