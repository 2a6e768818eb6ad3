"""Log values against the formula written down directly."""

import numpy as np
from scipy import sparse

from hdeepinsight.data._normalize import log_normalize


def test_every_cell_has_the_same_sum_before_the_logarithm():
    counts = np.random.default_rng(0).poisson(1.0, size=(20, 30)).astype(np.float32)
    counts[3] = 0  # an empty cell stays empty
    found = log_normalize(sparse.csr_matrix(counts), target_sum=500.0)
    assert found.dtype == np.float32
    total = counts.sum(axis=1, keepdims=True)
    expected = np.log1p(500 * counts / np.where(total > 0, total, 1))
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    sums = np.expm1(found.toarray()).sum(axis=1)
    np.testing.assert_allclose(np.delete(sums, 3), 500, rtol=1e-5)
    assert sums[3] == 0


def test_the_counts_stay_as_they_were():
    counts = sparse.csr_matrix([[1.0, 0.0, 3.0]])
    before = counts.copy()
    log_normalize(counts)
    assert (counts != before).nnz == 0
