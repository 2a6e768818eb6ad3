"""The mathematics of SCLabelNet: counts to gene tokens to probabilities on a tree."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.module.base import auto_move_data
from torch import Tensor, nn

from hdeepinsight._errors import check_choice, check_integer, check_number
from hdeepinsight.models._base._module import TreeModule
from hdeepinsight.nn import (
    AdaptiveHierarchicalFocalLoss,
    Binning,
    CountNormalizer,
    CountThinning,
    GeneMasking,
    LinearHead,
    Pooling,
    TokenEncoder,
    TokenSets,
    ValueEncoding,
    bin_values,
    token_sets,
)
from hdeepinsight.taxonomy import TreeAlgebra

if TYPE_CHECKING:
    from hdeepinsight.explanation import Targets
    from hdeepinsight.taxonomy import Taxonomy

SIZES = {
    "small": {"width": 64, "n_layers": 2, "n_heads": 4, "head_size": 16},
    "medium": {"width": 128, "n_layers": 4, "n_heads": 8, "head_size": 16},
    "published": {"width": 200, "n_layers": 6, "n_heads": 10, "head_size": 64},
}
VALUES_HIDDEN = 0.1
"""Share of values that are hidden while labels are learned, so that ``mask`` keeps its meaning."""


class GeneTokenClassifier(TreeModule):
    """Read a cell as a set of expressed genes, and classify along the tree.

    Parameters
    ----------
    taxonomy
        The tree of cell types; ``None`` for an encoder without a head.
    n_genes
        Number of genes.
    size, pooling, binning, value_encoding, n_bins, max_tokens, dropout, masking, thinning
        As in :class:`~hdeepinsight.models.SCLabelNet`.
    """

    log_prior: Tensor

    def __init__(
        self,
        taxonomy: Taxonomy | None,
        n_genes: int,
        *,
        size: str,
        pooling: Pooling,
        binning: Binning,
        value_encoding: ValueEncoding,
        n_bins: int,
        max_tokens: int,
        dropout: float,
        masking: GeneMasking,
        thinning: CountThinning,
    ) -> None:
        super().__init__()
        check_choice("size", size, tuple(SIZES))
        check_integer("n_bins", n_bins, 2)
        check_integer("max_tokens", max_tokens)
        check_number("dropout", dropout, 0, 0.99)
        self.max_tokens, self.masking, self.thinning = max_tokens, masking, thinning
        self.normalizer = CountNormalizer(n_genes)
        self.bins = partial(bin_values, n_bins=n_bins, binning=binning, encoding=value_encoding)
        self.bins(torch.zeros(1, 1))  # which refuses what it does not know
        sizes = SIZES[size]
        self.backbone = TokenEncoder(n_genes, n_bins, **sizes, dropout=dropout, pooling=pooling)
        self.value_head = nn.Linear(self.backbone.n_latent, n_bins)
        self.head, n_edges, n_levels = None, 0, 0
        if taxonomy is not None:
            n_edges, n_levels = taxonomy.n_edges, taxonomy.max_depth
            self.tree = TreeAlgebra(taxonomy)
            self.head = LinearHead(self.backbone.n_latent, self.tree, dropout=dropout)
            self.objective = AdaptiveHierarchicalFocalLoss(self.tree, gamma=0.0, weighting="fixed")
        self.register_buffer("temperature", torch.ones(n_levels))
        self.register_buffer("log_prior", torch.zeros(n_edges))

    def tokens(self, counts: Tensor, measured: Tensor, shift: Tensor | None = None) -> TokenSets:
        """Return the tokens of some cells.

        Of a cell with more than ``max_tokens``, random ones in training; otherwise those whose
        value comes nearest to the gene's 99th percentile in the reference.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``.
        measured
            1 where a gene was measured, shape ``(n_genes,)`` or ``(n_cells, n_genes)``.
        shift
            Batch correction of the log values, shape ``(n_cells, n_genes)``; what it takes below 0
            is no token.
        """
        values = self.normalizer.log_normalize(counts, measured)
        if shift is not None:
            values = (values + shift).clamp_min(0.0)
        priority = None if self.training else values / self.normalizer.scale
        return token_sets(self.bins(values), self.max_tokens, priority)

    @auto_move_data  # type: ignore[untyped-decorator]
    def inference(
        self, counts: Tensor, measured: Tensor, *, shift: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor]:
        """Features and logits.

        Parameters
        ----------
        counts, measured, shift
            As in :meth:`tokens`.

        Returns
        -------
        ``latent`` ``(n_cells, n_latent)`` and, with a head, ``logits`` ``(n_cells, n_edges)``.
        """
        tokens, masked = self.tokens(counts, measured, shift), None
        if self.training:
            masked = torch.rand(tokens.bins.shape, device=counts.device) < VALUES_HIDDEN
        latent = self.backbone(tokens, masked)
        if self.head is None:
            return {"latent": latent}
        return {"latent": latent, "logits": self.logits(latent)}

    def logits(self, latent: Tensor) -> Tensor:
        """Return logits of features, at prediction with the natural shares of the types."""
        logits: Tensor = self.head(latent)
        return logits if self.training else logits + self.log_prior

    def attribute(
        self, counts: Tensor, measured: Tensor, targets: Targets, every: bool, n_steps: int
    ) -> dict[str, np.ndarray]:
        r"""Explain cells by integrated gradients over the values of their tokens.

        Parameters
        ----------
        counts, measured
            As in :meth:`tokens`.
        targets
            What is explained.
        every
            Explain every target for every cell; otherwise each cell is explained for its own node.
        n_steps
            Points between unknown and known values; the error falls with it.

        Returns
        -------
        What :meth:`~hdeepinsight.explanation.AttributionAccumulator.add` takes, by name.

        Notes
        -----
        With :math:`\Delta_g` the vector of a token's value less that of ``mask``,
        :math:`\varphi_g = \int_0^1 \langle \partial F / \partial t_g, \Delta_g \rangle\, ds`, all
        tokens moved together. Genes that are not expressed have no token and get 0.
        """
        tokens, tree, encoder = self.tokens(counts, measured), self.tree, self.backbone

        def outputs(embedded: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(encoder.pool(encoder.hidden(embedded, tokens.real), tokens.real))
            conditional = self.generative(logits)["conditional"]
            if targets.kind != "logit":
                return conditional, conditional
            return logits / self.temperature[tree.edge_depth - 1], conditional

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
            "expression": self.normalizer(counts, measured).cpu().numpy(),
        }
