"""Operators of corrected inner products against dense formulas, for every estimator and mask."""

import numpy as np
import pytest
import scipy.sparse as sp

from hdeepinsight.graph import CorrectedGram, EntryMask, leading_eigenpairs

N_CELLS, N_GENES = 60, 40
ESTIMATORS = ["rank1", "rank1_published", "rank1_clip", "pairwise", "mean_fill", "zero_fill"]
KINDS = ["all", "dense", "sparse", "missing", "dropout", "panels"]


def draw(seed=0):
    """Values of which a third is 0, in two groups of cells."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, size=(N_CELLS, N_GENES)) * (rng.random((N_CELLS, N_GENES)) < 0.7)
    return values, rng.integers(2, size=N_CELLS), rng


def case(kind):
    """Return values, a mask, and the same mask as an array."""
    values, groups, rng = draw()
    alone, everything = np.zeros(N_CELLS, dtype=int), np.ones((1, N_GENES), dtype=bool)
    observed = rng.random((N_CELLS, N_GENES)) < np.linspace(0.4, 0.95, N_CELLS)[:, None]
    table = rng.random((2, N_GENES)) < 0.7
    table[1] |= ~table[0]
    if kind == "all":
        return values, EntryMask(alone, everything), np.ones_like(values)
    if kind == "panels":
        return values, EntryMask(groups, table), table[groups].astype(float)
    if kind == "dropout":
        mask = EntryMask(groups, table, nonzeros_observed=True)
        return values, mask, np.where(values > 0, 1.0, table[groups])
    given = {"dense": observed, "sparse": sp.csr_matrix(observed), "missing": None}[kind]
    if kind == "missing":
        mask = EntryMask(alone, everything, exceptions=-sp.csr_matrix(~observed, dtype=float))
    else:
        mask = EntryMask(alone, ~everything, exceptions=given)
    return values, mask, observed.astype(float)


def reference(values, observed, estimator):
    """The definition with matrices of all pairs."""
    r, p, c = observed.mean(1), observed.mean(0), observed.mean()
    means = (observed * values).sum(0) / observed.sum(0)
    z = observed * (values - means)
    if estimator == "zero_fill":
        filled = observed * values
        z = filled - filled.mean(0)
    if estimator.endswith("fill"):
        return z @ z.T / N_GENES
    if estimator == "rank1_published":
        c = max(c, np.outer(r, p).max())
    rates = np.outer(r, p) / observed.mean()
    if estimator == "rank1_published":
        rates = np.outer(r, p) / c
    if estimator == "rank1_clip":
        rates = np.minimum(rates, 1.0)
    if estimator == "pairwise":
        rates = observed
    counts = rates @ rates.T
    np.fill_diagonal(counts, rates.sum(1))
    return z @ z.T / counts


def gram(values, mask, estimator, *, center=False, size=None, keep=True):
    def read():
        step = size or values.shape[0]
        for start in range(0, values.shape[0], step):
            rows = slice(start, min(start + step, values.shape[0]))
            yield rows, values[rows]

    return CorrectedGram(read, mask, estimator=estimator, center=center, keep=keep)


def test_operator_is_the_dense_formula():
    for estimator in ESTIMATORS:
        for kind in KINDS:
            values, mask, observed = case(kind)
            expected = reference(values, observed, estimator)
            rng = np.random.default_rng(1)
            for given, size, keep in (
                (values, None, True),
                (sp.csr_matrix(values), None, True),
                (sp.csr_matrix(values), 17, False),
                (values, 25, False),
            ):
                found = gram(given, mask, estimator, size=size, keep=keep)
                np.testing.assert_allclose(found.todense(), expected, atol=1e-10)
                np.testing.assert_allclose(found.diagonal(), np.diagonal(expected), atol=1e-10)
                u, v = rng.normal(size=(2, N_CELLS))
                assert u @ (found @ v) == pytest.approx(v @ (found @ u), abs=1e-9)
                both = found.matmat(np.column_stack([u, v]))
                np.testing.assert_allclose(
                    both, np.column_stack([found.matvec(u), found.matvec(v)])
                )
                assert found.H is found or np.allclose(found.H @ u, found @ u)


def test_centring_is_that_of_rows_and_columns():
    for estimator in ESTIMATORS:
        values, mask, observed = case("panels" if estimator == "pairwise" else "dense")
        centring = np.eye(N_CELLS) - 1 / N_CELLS
        expected = centring @ reference(values, observed, estimator) @ centring
        found = gram(values, mask, estimator, center=True)
        np.testing.assert_allclose(found.todense(), expected, atol=1e-10)
        np.testing.assert_allclose(found.diagonal(), np.diagonal(expected), atol=1e-10)
        assert abs(found @ np.ones(N_CELLS)).max() < 1e-10


def test_without_missing_entries_it_is_the_centred_product():
    values, mask, _ = case("all")
    centred = values - values.mean(0)
    for estimator in ESTIMATORS:
        found = gram(values, mask, estimator).todense()
        np.testing.assert_allclose(found, centred @ centred.T / N_GENES, atol=1e-12)


def test_published_rates_scale_the_products():
    values, mask, observed = case("dense")
    plain, published = (gram(values, mask, name).todense() for name in ("rank1", "rank1_published"))
    c = observed.mean()
    most = np.outer(observed.mean(1), observed.mean(0)).max()
    ratio, apart = published / plain, ~np.eye(N_CELLS, dtype=bool)
    np.testing.assert_allclose(ratio[apart], (most / c) ** 2)
    np.testing.assert_allclose(np.diagonal(ratio), most / c)


def test_masks_of_the_same_entries_agree():
    values, groups, rng = draw()
    table = rng.random((2, N_GENES)) < 0.7
    table[1] |= ~table[0]
    values = np.where(table[groups], np.maximum(values, 0.1), 0.0)  # zeros are what is missing
    alone, everything = np.zeros(N_CELLS, dtype=int), np.ones((1, N_GENES), dtype=bool)
    observed = table[groups]
    masks = [
        EntryMask(alone, ~everything, exceptions=observed),
        EntryMask(alone, ~everything, exceptions=sp.csr_matrix(observed)),
        EntryMask(alone, everything, exceptions=-sp.csr_matrix(~observed, dtype=float)),
        EntryMask(groups, table),
        EntryMask(groups, np.zeros_like(table), nonzeros_observed=True),
    ]
    for estimator in ESTIMATORS:
        first, *others = (gram(values, mask, estimator).todense() for mask in masks)
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-10)


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "zero_fill"])
def test_invariances(estimator):
    values, mask, observed = case("dense")
    expected = gram(values, mask, estimator).todense()
    rng = np.random.default_rng(2)
    shifted = gram(values + rng.normal(size=N_GENES), mask, estimator).todense()
    np.testing.assert_allclose(shifted, expected, atol=1e-10)
    hidden = gram(np.where(observed, values, np.nan), mask, estimator).todense()
    np.testing.assert_array_equal(hidden, expected)
    np.testing.assert_allclose(gram(3 * values, mask, estimator).todense(), 9 * expected)

    def other(rows, columns):
        exceptions = observed[np.ix_(rows, columns)]
        given = EntryMask(mask.groups, mask.background, exceptions=exceptions)
        return gram(values[np.ix_(rows, columns)], given, estimator).todense()

    cells, genes = rng.permutation(N_CELLS), rng.permutation(N_GENES)
    np.testing.assert_allclose(other(np.arange(N_CELLS), genes), expected, atol=1e-10)
    permuted = other(cells, np.arange(N_GENES))
    np.testing.assert_allclose(permuted, expected[np.ix_(cells, cells)], atol=1e-10)


def test_missing_values_of_a_sparse_matrix_are_never_read():
    for kind in ["missing", "panels", "sparse"]:
        values, mask, observed = case(kind)
        hidden = sp.csr_matrix(np.where(observed, values, np.nan))
        found = gram(hidden, mask, "mean_fill").todense()
        np.testing.assert_allclose(found, gram(values, mask, "mean_fill").todense(), atol=1e-12)


def test_inputs_are_not_modified():
    for kind in KINDS:
        for form in ["csr", "csc", "dense"]:
            for dtype in [np.float32, np.float64]:
                values, mask, _ = case(kind)
                values = values.astype(dtype)
                given = values if form == "dense" else sp.csr_matrix(values)
                if form != "dense":
                    given.data[::9] = 0.0  # explicit zeros
                    given = given.asformat(form)
                    before = given.copy()
                read = given if form != "csc" else given.tocsr()
                gram(read, mask, "rank1") @ np.ones(N_CELLS)
                if form == "dense":
                    np.testing.assert_array_equal(given, values)
                else:
                    for part in ("data", "indices", "indptr"):
                        np.testing.assert_array_equal(getattr(given, part), getattr(before, part))


def test_invalid_input_is_refused():
    values, mask, observed = case("dense")
    values[3, np.flatnonzero(observed[3])[0]] = np.nan
    with pytest.raises(ValueError, match="must be finite, got 1 NaN"):
        gram(values, mask, "rank1")
    with pytest.raises(ValueError, match="must be finite"):
        gram(sp.csr_matrix(values), EntryMask(mask.groups, ~mask.background), "rank1")
    values, _, _ = draw()
    alone = np.zeros(N_CELLS, dtype=int)
    empty = observed.astype(bool)
    empty[7], empty[:, 5] = False, False
    with pytest.raises(ValueError, match=r"cell must have an observed entry, got 1 cells .* 7"):
        gram(values, EntryMask(alone, mask.background, exceptions=empty), "rank1")
    empty[7, 0] = True
    with pytest.raises(ValueError, match=r"gene must .* got 1 genes without any: 5\. .*drop_empty"):
        gram(values, EntryMask(alone, mask.background, exceptions=empty), "rank1")
    apart = np.zeros((2, N_GENES), dtype=bool)
    apart[0, :20], apart[1, 20:] = True, True
    groups = np.arange(N_CELLS) % 2
    with pytest.raises(ValueError, match="share a gene, got none for 'seq' and 'fish'"):
        gram(values, EntryMask(groups, apart, names=("seq", "fish")), "pairwise")
    scattered = EntryMask(alone, mask.background, exceptions=apart[groups])
    with pytest.raises(ValueError, match="share an observed gene, got none for 900 pairs"):
        gram(values, scattered, "pairwise")
    with pytest.raises(ValueError, match="estimator must be one of"):
        gram(values, mask, "rank2")


def test_empty_genes_can_be_left_out():
    values, mask, observed = case("dense")
    wider = np.column_stack([values, np.full(N_CELLS, np.nan)])
    more = np.column_stack([observed, np.zeros(N_CELLS)])
    given = EntryMask(mask.groups, np.zeros((1, N_GENES + 1), dtype=bool), exceptions=more)
    for estimator in ESTIMATORS:
        found = CorrectedGram(
            lambda: [(slice(0, N_CELLS), wider)], given, estimator=estimator, drop_empty=True
        )
        expected = gram(values, mask, estimator).todense()
        np.testing.assert_allclose(found.todense(), expected, atol=1e-10)
        assert found.n_genes == N_GENES


@pytest.mark.parametrize("center", [False, True])
def test_eigenvalues_are_those_of_the_dense_matrix(center):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(700, 5)) @ rng.normal(size=(5, 90)) + rng.normal(size=(700, 90))
    observed = rng.random((700, 90)) < rng.uniform(0.2, 0.9, size=(700, 1))
    mask = EntryMask(np.zeros(700, dtype=int), np.zeros((1, 90), dtype=bool), exceptions=observed)
    found = gram(values, mask, "rank1", center=center)
    expected, vectors = np.linalg.eigh(found.todense())
    w, v = leading_eigenpairs(found, 6)
    np.testing.assert_allclose(w, expected[:-7:-1], rtol=1e-6)
    assert abs(np.abs(np.sum(v * vectors[:, :-7:-1], axis=0)) - 1).max() < 1e-3
    again = leading_eigenpairs(found, 6)
    np.testing.assert_array_equal(again[1], v)
    assert (v[np.abs(v).argmax(axis=0), range(6)] > 0).all()
    assert expected[0] < 0  # the estimate is no product of a matrix with itself


def test_vectors_satisfy_the_relation_of_fitted_cells():
    for kind in ["dense", "missing", "dropout"]:
        values, mask, observed = case(kind)
        found = gram(values, mask, "rank1")
        w, v = leading_eigenpairs(found, 3)
        r, p, c = observed.mean(1), observed.mean(0), observed.mean()
        z = observed * (values - (observed * values).sum(0) / observed.sum(0))
        a, k = z / r[:, None], c**2 / (p @ p)
        delta = c * (z**2).sum(1) / (r * p.sum()) - k * (a**2).sum(1)
        right = k * a @ (a.T @ v)
        np.testing.assert_allclose((w - delta[:, None]) * v, right, atol=1e-8)
