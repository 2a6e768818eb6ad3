"""Cells as sets of gene tokens with binned values, and a transformer encoder for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from hdeepinsight._errors import check_choice

Binning = Literal["log2", "log2_published", "rank"]
ValueEncoding = Literal["hard", "soft"]
Pooling = Literal["attention", "cls", "mean"]

#: Tokens per pass through the blocks; on a CPU, as many as fit in its caches.
CPU_TOKENS, GPU_TOKENS = 4096, 2**18


class TokenSets(NamedTuple):
    """Tokens of the expressed genes of cells, padded to the longest cell.

    Parameters
    ----------
    genes
        Index of the gene of each token, int64, shape ``(n_cells, n_tokens)``.
    bins
        Bin of its value, starting from 1, int64, or position between two bins, float32, same
        shape; 0 for padding.
    real
        ``True`` for tokens, ``False`` for padding, same shape.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import token_sets
    >>> tokens = token_sets(torch.tensor([[2, 0, 5], [0, 1, 0]]))
    >>> tokens.genes.tolist(), tokens.real.sum(1).tolist()
    ([[0, 2], [1, 0]], [2, 1])
    """

    genes: Tensor
    bins: Tensor
    real: Tensor

    def groups(self) -> Iterator[tuple[Tensor, TokenSets]]:
        """Yield rows of similar length, and their tokens padded to the longest row."""
        n_tokens = self.real.sum(1)
        order = n_tokens.argsort(stable=True)
        sizes = n_tokens[order].tolist()
        limit = CPU_TOKENS if self.real.device.type == "cpu" else GPU_TOKENS
        start = 0
        while start < len(sizes):
            stop = start + 1
            while stop < len(sizes) and (stop + 1 - start) * (sizes[stop] + 1) <= limit:
                stop += 1
            rows = order[start:stop]
            yield rows, TokenSets(*(part[rows, : sizes[stop - 1]] for part in self))
            start = stop


def bin_values(
    log_values: Tensor,
    n_bins: int = 5,
    *,
    binning: Binning = "log2",
    encoding: ValueEncoding = "hard",
) -> Tensor:
    r"""Compute the bins of the values of expressed genes.

    Parameters
    ----------
    log_values
        :math:`\log(1 + v)` of normalised counts :math:`v`, shape ``(n_cells, n_genes)``; 0 for
        genes that are not expressed.
    n_bins
        Number of bins :math:`K`.
    binning
        ``"log2"``: bin :math:`1 + \min(\lfloor\log_2(1 + v)\rfloor, K - 1)`. ``"log2_published"``:
        :math:`\min(\lfloor\log_2(1 + v)\rfloor, K)`, which removes single counts of deep cells.
        ``"rank"``: quantile among the expressed genes of the cell, independent of depth.
    encoding
        ``"hard"`` for bins, int64; ``"soft"`` for positions between two bins, float32.

    Returns
    -------
    Bins from 1 to :math:`K`, shape ``(n_cells, n_genes)``; 0 for no token.

    Examples
    --------
    >>> import torch
    >>> bin_values(torch.tensor([[0.0, 0.5, 1.0, 3.0, 100.0]]).log1p())
    tensor([[0, 1, 2, 3, 5]])
    """
    check_choice("binning", binning, get_args(Binning))
    check_choice("value_encoding", encoding, get_args(ValueEncoding))
    expressed = log_values > 0
    if binning == "rank":
        ordered, values = log_values.where(expressed, torch.inf).sort(1)[0], log_values.contiguous()
        # Ties get the mean of their ranks.
        below, upto = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
        share = (below + upto) / 2 / expressed.sum(1, keepdim=True).clamp_min(1)
        found = 1 + (n_bins * share).clamp_max(n_bins - 1)
    else:
        # Rounding errors may put logarithms of powers of two slightly below the integer.
        exponent = log_values / np.log(2) + 1e-5
        found = 1 + exponent.clamp_max(n_bins - 1)
        if binning == "log2_published":
            expressed, found = exponent >= 1, exponent.clamp_max(n_bins)
    return torch.where(expressed, found.long() if encoding == "hard" else found, 0)


def token_sets(bins: Tensor, most: int | None = None, priority: Tensor | None = None) -> TokenSets:
    """Collect the tokens of each cell.

    Parameters
    ----------
    bins
        Result of :func:`bin_values`, shape ``(n_cells, n_genes)``.
    most
        Maximum number of tokens per cell; no limit by default.
    priority
        Priority of the genes in cells with more tokens, of which the highest are kept, shape
        ``(n_cells, n_genes)``; random by default.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import token_sets
    >>> values = torch.tensor([[1, 4, 2]])
    >>> token_sets(values, most=2, priority=values).genes.tolist()
    [[1, 2]]
    """
    present = bins > 0
    if most is not None and (many := present.sum(1) > most).any():
        some = present[many]
        rank = torch.rand(some.shape, device=bins.device) if priority is None else priority[many]
        rank = torch.where(some, rank, -torch.inf)
        kept = torch.zeros_like(rank, dtype=torch.bool)
        present[many] = kept.scatter(1, rank.topk(most, dim=1).indices, True)
    n_tokens = present.sum(1)
    cell, gene = present.nonzero(as_tuple=True)
    place = torch.arange(len(cell), device=cell.device) - (n_tokens.cumsum(0) - n_tokens)[cell]
    shape = len(bins), int(n_tokens.max()) if len(n_tokens) else 0
    genes = gene.new_zeros(shape).index_put((cell, place), gene)
    found = bins.new_zeros(shape).index_put((cell, place), bins[cell, gene])
    return TokenSets(genes, found, found > 0)


def choose_tokens(
    real: Tensor,
    mask_rate: float,
    replace_rate: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw the tokens whose value is predicted, and those of them whose value is masked.

    Parameters
    ----------
    real
        ``True`` for tokens, ``False`` for padding, shape ``(n_cells, n_tokens)``.
    mask_rate
        Share of the tokens of a cell that are predicted; at least one.
    replace_rate
        Share of the predicted tokens that are masked; the others stay visible.
    generator
        Random generator; torch's global one by default.

    Returns
    -------
    Predicted and masked tokens, Boolean, shape ``(n_cells, n_tokens)``.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import choose_tokens
    >>> chosen, masked = choose_tokens(torch.tensor([[True, True, False]]), 0.01, 1.0)
    >>> int(chosen.sum()), bool((chosen == masked).all())
    (1, True)
    """
    score = torch.rand(real.shape, generator=generator).to(real.device)
    score = score.masked_fill(~real, 2.0)
    chosen = score < mask_rate
    if real.shape[1]:
        least = score.argmin(1, keepdim=True)
        chosen = chosen.scatter(1, least, True) & real
    hidden = torch.rand(real.shape, generator=generator).to(real.device) < replace_rate
    return chosen, chosen & hidden


class TokenEncoder(nn.Module):
    """Transformer encoder on sets of tokens, with exact attention and without positions.

    Parameters
    ----------
    n_genes, n_bins
        Number of genes and of bins.
    width, n_layers, n_heads, head_size
        Sizes of the transformer.
    dropout
        Dropout rate after each attention and feed-forward layer.
    pooling
        Pooling of tokens: ``"attention"`` with learned weights, ``"mean"``, or ``"cls"`` for the
        output of a class token.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import TokenEncoder, token_sets
    >>> encoder = TokenEncoder(3, 5, width=8, n_layers=1, n_heads=2, head_size=4)
    >>> encoder(token_sets(torch.tensor([[2, 0, 5], [0, 0, 0]]))).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        n_genes: int,
        n_bins: int,
        *,
        width: int,
        n_layers: int,
        n_heads: int,
        head_size: int,
        dropout: float = 0.1,
        pooling: Pooling = "attention",
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, get_args(Pooling))
        self.n_latent, self.mask, self.pooling = width, n_bins + 1, pooling
        self.genes = nn.Embedding(n_genes, width)
        self.values = nn.Embedding(n_bins + 2, width)
        self.cls = nn.Parameter(torch.zeros(width))
        for table in (self.genes, self.values):
            nn.init.normal_(table.weight, std=0.1)
        self.blocks = nn.ModuleList(
            _Block(width, n_heads, head_size, dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        if pooling == "attention":
            layers = nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False)
            self.gate = nn.Sequential(*layers)

    def embed(self, tokens: TokenSets, masked: Tensor | None = None) -> Tensor:
        """Compute the embeddings of tokens, shape ``(n_cells, n_tokens, width)``.

        Parameters
        ----------
        tokens
            Tokens of the cells.
        masked
            Tokens with masked values, shape ``(n_cells, n_tokens)``.
        """
        bins = tokens.bins if masked is None else tokens.bins.masked_fill(masked, self.mask)
        values = self.values(bins.long())
        if bins.is_floating_point():
            values = values.lerp(self.values(bins.ceil().long()), bins.frac().unsqueeze(2))
        embedded: Tensor = self.genes(tokens.genes) + values
        return embedded

    def hidden(self, embedded: Tensor, real: Tensor) -> Tensor:
        """Compute the outputs of the transformer for the class token and all other tokens.

        Parameters
        ----------
        embedded
            Embeddings of the tokens, shape ``(n_cells, n_tokens, width)``.
        real
            ``True`` for tokens, ``False`` for padding, shape ``(n_cells, n_tokens)``.

        Returns
        -------
        Outputs, the class token first, shape ``(n_cells, n_tokens + 1, width)``.
        """
        first = self.cls.expand(len(embedded), 1, -1)
        hidden = torch.cat([first, embedded], dim=1)
        attended = nn.functional.pad(real, (1, 0), value=True).view(len(real), 1, 1, -1)
        for block in self.blocks:
            hidden = block(hidden, attended)
        normalised: Tensor = self.norm(hidden)
        return normalised

    def pool(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Pool the outputs of :meth:`hidden` to features ``(n_cells, width)``."""
        if self.pooling == "cls":
            return hidden[:, 0]
        # Cells without other tokens use the class token.
        counted = torch.cat([~real.any(1, keepdim=True), real], dim=1)
        scores = self.gate(hidden).squeeze(2) if self.pooling == "attention" else counted.float()
        scores = scores.masked_fill(~counted, -torch.inf)
        return (scores.softmax(dim=1).to(hidden).unsqueeze(1) @ hidden).squeeze(1)

    def forward(self, tokens: TokenSets, masked: Tensor | None = None) -> Tensor:
        """Compute features, shape ``(n_cells, width)``."""
        rows, found = [], []
        for some, part in tokens.groups():
            hide = None if masked is None else masked[some, : part.genes.shape[1]]
            rows.append(some)
            found.append(self.pool(self.hidden(self.embed(part, hide), part.real), part.real))
        return torch.cat(found)[torch.cat(rows).argsort()]


def masked_value_losses(
    encoder: TokenEncoder, head: nn.Linear, tokens: TokenSets, chosen: Tensor, masked: Tensor
) -> Tensor:
    """Compute the cross-entropy of the bin of each predicted token, in the order of the tokens.

    Parameters
    ----------
    encoder
        Encoder of the tokens.
    head
        Logits of the bins from an output of the encoder.
    tokens
        Tokens of the cells.
    chosen, masked
        Result of :func:`choose_tokens`.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import TokenEncoder, choose_tokens, masked_value_losses, token_sets
    >>> encoder = TokenEncoder(3, 5, width=8, n_layers=1, n_heads=2, head_size=4)
    >>> tokens = token_sets(torch.tensor([[2, 0, 5], [0, 1, 0]]))
    >>> chosen, masked = choose_tokens(tokens.real, 0.15, 0.9)
    >>> masked_value_losses(encoder, torch.nn.Linear(8, 5), tokens, chosen, masked).shape
    torch.Size([2])
    """
    rows, found = [], []
    for some, part in tokens.groups():
        n_tokens = part.genes.shape[1]
        target, hide = (each[some, :n_tokens] for each in (chosen, masked))
        logits = head(encoder.hidden(encoder.embed(part, hide), part.real)[:, 1:][target])
        bins = part.bins[target].long() - 1
        found.append(nn.functional.cross_entropy(logits, bins, reduction="none"))
        rows.append(some[target.nonzero()[:, 0]])
    return torch.cat(found)[torch.cat(rows).argsort(stable=True)]


class _Block(nn.Module):
    """Transformer block with pre-normalisation."""

    def __init__(self, width: int, n_heads: int, head_size: int, dropout: float) -> None:
        super().__init__()
        inner = n_heads * head_size
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.queries_keys_values = nn.Linear(width, 3 * inner)
        self.output = nn.Linear(inner, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, attended: Tensor) -> Tensor:
        mixed = self.queries_keys_values(self.norms[0](hidden))
        query, key, value = mixed.unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(query, key, value, attended)
        hidden = hidden + self.dropout(self.output(found.transpose(1, 2).flatten(2)))
        further: Tensor = self.dropout(self.feed_forward(self.norms[1](hidden)))
        return hidden + further
