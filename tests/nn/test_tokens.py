"""Gene tokens: bins of values, sets of tokens, and the transformer that reads them."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn

from hdeepinsight.nn import TokenEncoder, TokenSets, bin_values, token_sets

SIZES = {"width": 16, "n_layers": 2, "n_heads": 2, "head_size": 8}


@pytest.fixture
def values():
    """Normalised counts of 12 cells and 30 genes; the last cell has none."""
    counts = torch.poisson(torch.full((12, 30), 0.8)) * torch.linspace(0.4, 9.0, 12).unsqueeze(1)
    counts[-1] = 0
    return counts


def encoder(**options):
    return TokenEncoder(30, 5, **SIZES | options).eval()


@pytest.mark.parametrize("binning", ["log2", "rank"])
def test_expressed_genes_have_a_bin_and_others_none(values, binning):
    bins = bin_values(values.log1p(), 5, binning=binning)
    assert bool(((bins >= 1) == (values > 0)).all())
    assert bins.max() <= 5
    for row, found in zip(values, bins, strict=True):
        order = row[row > 0].argsort()
        assert bool((found[row > 0][order].diff() >= 0).all())


def test_bins_equal_a_table_made_by_hand():
    v = torch.tensor([[0.5, 1.0, 3.0, 6.9, 7.0, 31.0, 100.0]])
    assert bin_values(v.log1p(), 5).tolist() == [[1, 2, 3, 3, 4, 5, 5]]
    assert bin_values(v.log1p(), 3).tolist() == [[1, 2, 3, 3, 3, 3, 3]]
    published = bin_values(v.log1p(), 5, binning="log2_published")
    assert published.tolist() == [[0, 1, 2, 2, 3, 5, 5]]


def test_ranks_do_not_depend_on_depth_and_ties_share_one(values):
    bins = bin_values(values.log1p(), 5, binning="rank")
    assert torch.equal(bins, bin_values((3 * values).log1p(), 5, binning="rank"))
    for row, found in zip(values.numpy(), bins.numpy(), strict=True):
        ranks = (rankdata(row[row > 0]) - 0.5) / max((row > 0).sum(), 1)
        np.testing.assert_array_equal(found[row > 0], 1 + np.minimum(5 * ranks // 1, 4))


def test_soft_values_are_hard_ones_at_whole_positions_and_continuous_between():
    v = torch.tensor([[1.0, 3.0, 7.0, 100.0, 2**1.5 - 1]])
    soft = bin_values(v.log1p(), 5, encoding="soft")
    expected = torch.tensor([[2.0, 3.0, 4.0, 5.0, 2.5]])
    torch.testing.assert_close(soft, expected, atol=1e-4, rtol=0)
    network, genes = encoder(), torch.zeros(1, 1, dtype=torch.int64)

    def embedded(position, **how):
        real = torch.ones(1, 1, dtype=torch.bool)
        return network.embed(TokenSets(genes, torch.tensor([[position]]), real), **how)

    assert torch.equal(embedded(3.0), embedded(3))
    torch.testing.assert_close(embedded(2.25), 0.75 * embedded(2) + 0.25 * embedded(3))
    hide = torch.ones(1, 1, dtype=torch.bool)
    assert torch.equal(embedded(2.25, masked=hide), embedded(4, masked=hide))
    for position in (1.0, 2.5, 3.0):
        for step in (-1e-4, 1e-4):
            change = embedded(position + step) - embedded(position)
            assert change.abs().max() < 1e-3


def test_a_cell_with_too_many_tokens_keeps_those_of_highest_priority(values):
    tokens = token_sets(bin_values(values.log1p()), most=3, priority=values)
    for row, genes, real in zip(values, tokens.genes, tokens.real, strict=True):
        assert real.sum() == min(3, (row > 0).sum())
        kept = row[genes[real]]
        assert kept.numel() == 0 or kept.min() >= row.sort(descending=True).values[2]
    bins = bin_values(values.log1p())
    drawn = [token_sets(bins, most=3).genes for _ in range(2)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("pooling", ["attention", "cls", "mean"])
def test_neither_order_nor_padding_nor_other_cells_matter(values, pooling):
    network, bins = encoder(pooling=pooling), bin_values(values.log1p())
    together = network(token_sets(bins))
    alone = torch.cat([network(token_sets(row.unsqueeze(0))) for row in bins])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    tokens = token_sets(bins)
    order = torch.randperm(tokens.genes.shape[1])
    shuffled = TokenSets(*(part[:, order] for part in tokens))
    found = network.pool(network.hidden(network.embed(shuffled), shuffled.real), shuffled.real)
    torch.testing.assert_close(together, found, atol=1e-5, rtol=0)


def test_features_are_the_class_token_or_the_mean_of_the_others(values):
    tokens = token_sets(bin_values(values.log1p()))
    hidden = torch.randn(len(values), tokens.genes.shape[1] + 1, SIZES["width"])
    assert torch.equal(encoder(pooling="cls").pool(hidden, tokens.real), hidden[:, 0])
    means = encoder(pooling="mean").pool(hidden, tokens.real)
    for cell, real, found in zip(hidden, tokens.real, means, strict=True):
        torch.testing.assert_close(found, cell[1:][real].mean(0) if real.any() else cell[0])


def test_padding_has_no_weight(values):
    network, tokens = encoder(), token_sets(bin_values(values.log1p()))
    changed = tokens._replace(genes=torch.where(tokens.real, tokens.genes, 7))
    assert torch.equal(network(tokens), network(changed))
    embedded = network.embed(tokens).detach().requires_grad_()
    network.pool(network.hidden(embedded, tokens.real), tokens.real).sum().backward()
    assert embedded.grad[~tokens.real].abs().max() == 0


def test_attention_is_a_plain_softmax(values):
    block, tokens = encoder().blocks[0], token_sets(bin_values(values.log1p()))
    hidden = torch.randn(len(values), tokens.genes.shape[1] + 1, SIZES["width"])
    attended = nn.functional.pad(tokens.real, (1, 0), value=True)
    weights, biases = block.queries_keys_values.weight, block.queries_keys_values.bias
    parts = (block.norms[0](hidden) @ weights.T + biases).chunk(3, dim=2)
    heads = []
    for some in (slice(0, 8), slice(8, 16)):
        query, key, value = (part[..., some] for part in parts)
        scores = query @ key.transpose(1, 2) / 8**0.5
        scores[~attended.unsqueeze(1).expand_as(scores)] = -torch.inf
        heads.append(scores.softmax(2) @ value)
    expected = hidden + block.output(torch.cat(heads, dim=2))
    expected = expected + block.feed_forward(block.norms[1](expected))
    found = block(hidden, attended.view(len(values), 1, 1, -1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_tokens", [0, 1])
def test_cells_with_few_tokens_are_finite(n_tokens):
    bins = torch.zeros(3, 30, dtype=torch.int64)
    bins[:, :n_tokens] = 2
    assert bool(torch.isfinite(encoder()(token_sets(bins))).all())


def test_groups_hold_every_cell_once(values, monkeypatch):
    monkeypatch.setattr("hdeepinsight.nn._tokens.CPU_TOKENS", 40)
    tokens = token_sets(bin_values(values.log1p()))
    groups = list(tokens.groups())
    assert len(groups) > 2
    rows = torch.cat([rows for rows, _ in groups])
    assert rows.sort().values.tolist() == list(range(len(values)))
    assert all(int(part.real.sum(1).max()) == part.real.shape[1] for _, part in groups)
