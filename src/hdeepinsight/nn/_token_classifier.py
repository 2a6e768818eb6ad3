"""Hierarchical classifier of gene tokens: counts to tokens to logits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hdeepinsight._errors import check_choice, check_integer, check_number
from hdeepinsight.nn._classifiers import TreeClassifier
from hdeepinsight.nn._heads import LinearHead
from hdeepinsight.nn._hierarchical_loss import AdaptiveHierarchicalFocalLoss
from hdeepinsight.nn._normalize import CountNormalizer
from hdeepinsight.nn._tokens import TokenEncoder, bin_values, token_sets
from hdeepinsight.taxonomy import TreeAlgebra

if TYPE_CHECKING:
    from hdeepinsight.nn._augment import CountThinning, GeneMasking
    from hdeepinsight.nn._tokens import Binning, Pooling, TokenSets, ValueEncoding
    from hdeepinsight.taxonomy import Taxonomy

SIZES = {
    "small": {"width": 64, "n_layers": 2, "n_heads": 4, "head_size": 16},
    "medium": {"width": 128, "n_layers": 4, "n_heads": 8, "head_size": 16},
    "published": {"width": 200, "n_layers": 6, "n_heads": 10, "head_size": 64},
}
#: Share of values masked in training with labels, so that the embedding of ``mask`` stays valid.
MASKED_VALUES = 0.1


class GeneTokenClassifier(TreeClassifier):
    """Transformer on the expressed genes of a cell, with a hierarchical classification head.

    A linear path from the scaled values of all genes is added to the logits.

    Parameters
    ----------
    taxonomy
        Taxonomy of the cell types; ``None`` for an encoder without a head.
    n_genes
        Number of genes.
    size, pooling, binning, value_encoding, n_bins, max_tokens, dropout, masking, thinning
        As in :class:`~hdeepinsight.models.SCLabelNet`.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import CountThinning, GeneMasking, GeneTokenClassifier
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> module = GeneTokenClassifier(
    ...     Taxonomy.from_nested({"T": [], "B": []}),
    ...     n_genes=3,
    ...     size="small",
    ...     pooling="mean",
    ...     binning="log2",
    ...     value_encoding="hard",
    ...     n_bins=5,
    ...     max_tokens=2,
    ...     dropout=0.1,
    ...     masking=GeneMasking(),
    ...     thinning=CountThinning(),
    ... )
    >>> module.eval().predict(torch.eye(3), torch.ones(3))["probabilities"].shape
    torch.Size([3, 3])
    """

    log_prior: Tensor
    linear: Any

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
        self.bins(torch.zeros(1, 1))  # checks the options
        sizes = SIZES[size]
        self.backbone = TokenEncoder(n_genes, n_bins, **sizes, dropout=dropout, pooling=pooling)
        self.value_head = nn.Linear(self.backbone.n_latent, n_bins)
        self.tree: Any = None
        self.head = self.linear = None
        n_edges, n_levels = 0, 0
        if taxonomy is not None:
            n_edges, n_levels = taxonomy.n_edges, taxonomy.max_depth
            self.tree = TreeAlgebra(taxonomy)
            self.head = LinearHead(self.backbone.n_latent, self.tree, dropout=dropout)
            self.linear = nn.Linear(n_genes, n_edges, bias=False)
            nn.init.zeros_(self.linear.weight)
            self.objective = AdaptiveHierarchicalFocalLoss(self.tree, gamma=0.0, weighting="fixed")
        self.register_buffer("temperature", torch.ones(n_levels))
        self.register_buffer("log_prior", torch.zeros(n_edges))

    def tokens(self, counts: Tensor, measured: Tensor, shift: Tensor | None = None) -> TokenSets:
        """Return the tokens of cells.

        If a cell has more than ``max_tokens`` expressed genes, a random subset is used in training;
        otherwise those with the highest values relative to the gene's 99th percentile in the
        reference.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``.
        measured
            1 for measured genes, shape ``(n_genes,)`` or ``(n_cells, n_genes)``.
        shift
            Batch correction of the log values, shape ``(n_cells, n_genes)``; corrected values <= 0
            give no token.
        """
        values = self.normalizer.log_normalize(counts, measured)
        if shift is not None:
            values = (values + shift).clamp_min(0.0)
        priority = None if self.training else values / self.normalizer.scale
        return token_sets(self.bins(values), self.max_tokens, priority)

    def inference(
        self, counts: Tensor, measured: Tensor, *, shift: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor]:
        """Compute the latent representation and logits.

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
            masked = torch.rand(tokens.bins.shape, device=counts.device) < MASKED_VALUES
        latent = self.backbone(tokens, masked)
        if self.head is None:
            return {"latent": latent}
        values = self.normalizer(counts, measured, shift)
        return {"latent": latent, "logits": self.logits(latent, values)}

    def logits(self, latent: Tensor, values: Tensor) -> Tensor:
        """Compute logits from features and scaled values; prediction corrects for the sampling."""
        logits: Tensor = self.head(latent) + self.linear(values)
        return logits if self.training else logits + self.log_prior

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *how: Any) -> None:
        if self.linear is not None:  # models of earlier versions have no linear path
            none = torch.zeros_like(self.linear.weight)
            state_dict.setdefault(f"{prefix}linear.weight", none)
        super()._load_from_state_dict(state_dict, prefix, *how)

    def attribute(
        self,
        counts: Tensor,
        measured: Tensor,
        targets: Any,
        leaves: np.ndarray,
        *,
        every: bool,
        n_steps: int,
    ) -> dict[str, np.ndarray]:
        r"""Compute integrated gradients over the values of the tokens of cells.

        Parameters
        ----------
        counts, measured
            As in :meth:`tokens`.
        targets
            Targets of the explanation.
        leaves
            Predicted leaf of each cell, as its number among the leaves.
        every
            Explain all targets for all cells; otherwise each cell only for that of its leaf.
        n_steps
            Points between masked and actual values (Gauss-Legendre); more reduce the error.

        Returns
        -------
        Arguments of :meth:`~hdeepinsight.explanation.AttributionAccumulator.add`, by name.

        Notes
        -----
        With :math:`\Delta_g` the difference between the embeddings of a token's value and of
        ``mask``, and :math:`s_g` the value in the linear path, where unknown values are 0,
        :math:`\varphi_g = \int_0^1 \langle \partial F / \partial t_g, \Delta_g \rangle +
        s_g\,\partial F / \partial s_g \, ds`; all values change together. Genes that are not
        expressed get 0.
        """
        tokens, encoder = self.tokens(counts, measured), self.backbone
        scaled = self.normalizer(counts, measured)

        def outputs(embedded: Tensor, values: Tensor) -> Tensor:
            latent = encoder.pool(encoder.hidden(embedded, tokens.real), tokens.real)
            found: Tensor = targets.scores(self, self.logits(latent, values))
            return found

        with torch.no_grad():
            known, unknown = encoder.embed(tokens), encoder.embed(tokens, tokens.real)
            scores, base = outputs(known, scaled), outputs(unknown, torch.zeros_like(scaled))
        cell, target, own = targets.pairs(leaves, every=every)
        change = known - unknown
        weights = torch.from_numpy(targets.weights[target]).to(scores).view(-1, *scores.shape)
        values = counts.new_zeros(len(weights), *counts.shape)
        for place, mass in zip(*np.polynomial.legendre.leggauss(n_steps), strict=True):
            share = (place + 1) / 2
            point = [(unknown + share * change).requires_grad_(), (share * scaled).requires_grad_()]
            at = outputs(*point)
            for row, weight in zip(values, weights, strict=True):
                slope, direct = torch.autograd.grad(at, point, weight, retain_graph=True)
                row.add_(mass / 2 * direct * scaled)
                row.scatter_add_(1, tokens.genes, mass / 2 * (slope * change).sum(2))
        return {
            "target": target,
            "cell": cell,
            "own": own,
            "values": values.flatten(0, 1).cpu().numpy(),
            "outputs": (scores * weights).sum(2).flatten().cpu().numpy(),
            "base_values": (base * weights).sum(2).flatten().cpu().numpy(),
            "expression": scaled.cpu().numpy(),
        }
