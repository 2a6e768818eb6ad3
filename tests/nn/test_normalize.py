"""Normalisation of counts to [0, 1]."""

import numpy as np
import pytest
import torch
from scipy import sparse

from hdeepinsight.nn import CountNormalizer

ALL = torch.ones(40)


@pytest.fixture
def normalizer(reference):
    return CountNormalizer(40).fit(reference)


@pytest.fixture
def cells(reference):
    return torch.from_numpy(reference.toarray())


def naive_fit(counts, percentile=99.0):
    """Plain loops over genes and cells, float64."""
    counts = counts.toarray().astype(np.float64)
    n_cells, n_genes = counts.shape
    library_gene = np.ones(n_genes)
    for gene in range(n_genes):
        dominated = [cell[gene] > 0.05 * cell.sum() for cell in counts]
        if sum(dominated) > 0.01 * n_cells:
            library_gene[gene] = 0
    library = counts @ library_gene
    target = np.median(library[library > 0])
    shares = np.array(
        [c / max(lib, 1) if lib > 0 else 0 * c for c, lib in zip(counts, library, strict=True)]
    )
    logged = np.log1p(target * shares)
    pooled = np.percentile(logged[logged > 0], percentile)
    scale = np.full(n_genes, pooled)
    for gene in range(n_genes):
        positive = logged[logged[:, gene] > 0, gene]
        if len(positive) >= 50:
            scale[gene] = np.percentile(positive, percentile)
    return library_gene, target, shares.mean(axis=0), scale


@pytest.mark.parametrize("percentile", [99.0, 100.0, 50.0])
def test_fit_equals_plain_loops(reference, percentile):
    fitted = CountNormalizer(40).fit(reference, scale_percentile=percentile)
    library_gene, target, mean_share, scale = naive_fit(reference, percentile)
    np.testing.assert_array_equal(fitted.library_gene, library_gene)
    assert fitted.target_sum.item() == pytest.approx(target)
    np.testing.assert_allclose(fitted.mean_share, mean_share, rtol=1e-5)
    np.testing.assert_allclose(fitted.scale, scale, rtol=1e-5)


def test_dominant_genes_are_not_in_the_library_size(normalizer, cells, reference):
    library_gene = naive_fit(reference)[0]
    assert library_gene[0] == 0
    assert 0 < library_gene.sum() < 40
    flooded = cells[:1].clone()
    flooded[0, 0] *= 100
    before, after = normalizer(cells[:1], ALL), normalizer(flooded, ALL)
    assert torch.equal(before[0, 1:], after[0, 1:])


def test_every_gene_counts_where_all_of_them_dominate():
    counts = sparse.csr_matrix(np.tile([3.0, 7.0], (200, 1)))
    fitted = CountNormalizer(2).fit(counts)
    assert fitted.library_gene.tolist() == [1.0, 1.0]
    assert fitted.target_sum.item() == 10.0


def test_rare_genes_borrow_the_pooled_scale(normalizer, reference):
    pooled = naive_fit(reference)[3][39]
    np.testing.assert_allclose(normalizer.scale[[38, 39]], pooled, rtol=1e-5)
    # Fifty positive cells are enough for a scale of the gene's own.
    counts = reference.tolil()
    counts[:50, 38] = 1
    own = CountNormalizer(40).fit(counts.tocsr()).scale[38]
    assert own.item() < 0.9 * pooled


def test_target_sum_can_be_given(reference, cells):
    fitted = CountNormalizer(40).fit(reference, target_sum=1e4)
    assert fitted.target_sum.item() == 1e4
    library = (cells[0] * fitted.library_gene).sum()
    expected = torch.log1p(1e4 * cells[0] / library)
    torch.testing.assert_close(fitted.log_normalize(cells[:1], ALL)[0], expected)


def test_explicit_zeros_and_stored_type_do_not_matter(reference):
    dense = reference.toarray()
    full = sparse.csr_matrix(np.ones_like(dense, dtype=np.float64))
    full.data = dense.astype(np.float64).ravel()
    assert full.nnz == dense.size
    before = full.data.copy()
    fitted, plain = CountNormalizer(40).fit(full), CountNormalizer(40).fit(reference)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(fitted.get_buffer(name), buffer)
    np.testing.assert_array_equal(full.data, before)


def test_a_reference_without_counts_is_refused():
    with pytest.raises(ValueError, match="must have raw counts, got none in any of the 3"):
        CountNormalizer(2).fit(sparse.csr_matrix((3, 2)))


def test_formula_against_plain_loops(normalizer, cells, masks):
    values = normalizer(cells[:8], masks)
    lib_gene, mu = normalizer.library_gene.double(), normalizer.mean_share.double()
    for b in range(8):
        m, x = masks[b].double(), cells[b].double()
        library = sum(float(lib_gene[g] * m[g] * x[g]) for g in range(40))
        coverage = float((m * lib_gene * mu).sum() / (lib_gene * mu).sum())
        for g in range(40):
            y = np.log1p(normalizer.target_sum.item() * coverage * float(x[g]) / max(library, 1))
            s = float(m[g]) * min(y / normalizer.scale[g].item(), 1.0)
            assert values[b, g].item() == pytest.approx(s, rel=1e-4, abs=1e-7)


def test_a_query_without_genes_equals_a_masked_reference_bit_for_bit(normalizer, cells, masks):
    masked = normalizer(cells[:8], masks)
    for b in range(8):
        # The query's file never had these genes: zeros, and one mask for all of its cells.
        query = cells[b : b + 1] * masks[b]
        assert torch.equal(normalizer(query, masks[b])[0], masked[b])


def test_hidden_counts_are_never_read(normalizer, cells, masks):
    spoiled = torch.where(masks > 0, cells[:8], torch.full_like(masks, 77.0))
    assert torch.equal(normalizer(spoiled, masks), normalizer(cells[:8], masks))


@pytest.mark.parametrize("depth", [2000.0, 64.0])
def test_composition_of_the_mean_keeps_its_values_under_any_mask(normalizer, masks, depth):
    cell = (depth * normalizer.mean_share).expand(8, -1)
    whole = normalizer.log_normalize(cell, ALL)
    torch.testing.assert_close(normalizer.log_normalize(cell, masks), whole * masks)


def test_a_cell_does_not_depend_on_the_others():
    for n_genes in [7, 40, 1000, 4096]:
        counts = torch.poisson(torch.full((37, n_genes), 0.7))
        masks = (torch.rand(37, n_genes) < 0.8).float()
        normalizer = CountNormalizer(n_genes).fit(sparse.csr_matrix(counts.numpy()))
        together = normalizer(counts, masks)
        for rows in (slice(0, 1), slice(5, 7), slice(11, 37)):
            assert torch.equal(normalizer(counts[rows], masks[rows]), together[rows])


def test_values_lie_in_the_unit_interval_and_reach_both_ends(normalizer, cells):
    values = normalizer(cells, ALL)
    assert values.min().item() == 0.0
    assert values.max().item() == 1.0
    assert ((values > 0) == (cells > 0)).all()


def test_about_one_percent_of_positive_values_is_clipped(reference):
    counts = sparse.csr_matrix(np.random.default_rng(1).poisson(20.0, size=(2000, 25)))
    normalizer = CountNormalizer(25).fit(counts)
    values = normalizer(torch.from_numpy(counts.toarray()).float(), torch.ones(25))
    clipped = (values == 1.0).float().mean(dim=0)
    assert clipped.min().item() >= 0.008
    assert clipped.max().item() <= 0.03


@pytest.mark.parametrize(
    ("counts", "mask"),
    [
        pytest.param(torch.zeros(2, 40), torch.ones(40), id="empty_cell"),
        pytest.param(torch.full((2, 40), 5.0), torch.zeros(2, 40), id="every_gene_hidden"),
        pytest.param(torch.eye(40)[:1] * 900, torch.ones(40), id="only_a_dominant_gene"),
    ],
)
def test_a_cell_without_a_library_gives_zeros(normalizer, counts, mask):
    assert torch.equal(normalizer(counts, mask), torch.zeros_like(counts))


def test_cells_of_a_dominant_gene_alone_do_not_spoil_the_fit(reference):
    only = sparse.csr_matrix((np.full(60, 900.0), (np.arange(60), np.zeros(60, int))), (60, 40))
    fitted = CountNormalizer(40).fit(sparse.vstack([reference, only]).tocsr())
    plain = CountNormalizer(40).fit(reference)
    assert fitted.target_sum == plain.target_sum
    torch.testing.assert_close(fitted.scale, plain.scale)


def test_buffers_are_part_of_the_state(normalizer, cells):
    other = CountNormalizer(40)
    assert not torch.equal(other(cells, ALL), normalizer(cells, ALL))
    other.load_state_dict(normalizer.state_dict())
    assert torch.equal(other(cells, ALL), normalizer(cells, ALL))


def test_half_precision_training_keeps_the_values(normalizer, cells):
    expected = normalizer(cells * 200, ALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = normalizer(cells * 200, ALL)
    assert torch.equal(values, expected)
