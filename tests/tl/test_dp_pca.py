"""Private principal components: noise, guarantee and stated conditions."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import norm

import hdeepinsight as hdi
from hdeepinsight.data import InputError, log_normalize
from hdeepinsight.nn import check_delta, gaussian_noise_sd, private_directions


def unit_rows(adata: ad.AnnData) -> np.ndarray:
    values = log_normalize(adata.X).toarray().astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_noise_meets_the_exact_condition_of_the_gaussian_mechanism():
    for epsilon, delta in [(0.1, 1e-6), (1.0, 1e-5), (4.0, 1e-5), (20.0, 0.1)]:
        s = gaussian_noise_sd(epsilon, delta)
        found = norm.cdf(0.5 / s - epsilon * s) - np.exp(epsilon) * norm.cdf(-0.5 / s - epsilon * s)
        assert found == pytest.approx(delta, rel=1e-6)
        if epsilon <= 1:  # the classical bound
            assert s < np.sqrt(2 * np.log(1.25 / delta)) / epsilon


def test_noise_agrees_with_the_accountant_of_opacus():
    accountant = pytest.importorskip("opacus.accountants").RDPAccountant()
    accountant.history = [(gaussian_noise_sd(2.0, 1e-5), 1.0, 1)]
    assert 2.0 < accountant.get_epsilon(1e-5) < 2.25  # Rényi's bound is above the exact one


def test_sensitivity_to_one_cell_is_one(synthetic_hierarchy):
    rows = unit_rows(synthetic_hierarchy)
    change = rows.T @ rows - rows[1:].T @ rows[1:]
    assert np.linalg.norm(change) == pytest.approx(1.0)


def test_noise_is_white_in_the_frobenius_norm(synthetic_hierarchy):
    rows, d = unit_rows(synthetic_hierarchy), synthetic_hierarchy.n_vars
    result = hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0, n_comps=d, centred=False)
    released = result.components.T @ np.diag(result.eigenvalues) @ result.components
    noise = released - rows.T @ rows
    above, diagonal = noise[np.triu_indices(d, 1)], np.diag(noise)
    assert above.mean() == pytest.approx(0, abs=0.15)
    assert above.std() == pytest.approx(result.noise_sd / np.sqrt(2), rel=0.05)
    assert diagonal.std() == pytest.approx(result.noise_sd, rel=0.3)


def test_centred_releases_compose_to_the_budget_of_one(synthetic_hierarchy):
    rows, d = sp.csr_matrix(unit_rows(synthetic_hierarchy)), synthetic_hierarchy.n_vars
    n = rows.shape[0]
    releases = [
        private_directions(lambda: [rows], n, 2.0, np.random.default_rng(seed), n_comps=d)
        for seed in range(30)
    ]
    exact = np.asarray(rows.mean(axis=0)).ravel()
    of_mean = np.std([centre - exact for centre, *_ in releases]) * n
    noises = []
    for centre, components, values in releases:
        residuals = rows.toarray() - centre
        length = np.linalg.norm(residuals, axis=1, keepdims=True)
        residuals *= np.minimum(1, 0.75 / length)
        noises.append(components.T @ np.diag(values) @ components - residuals.T @ residuals)
    of_moments = np.std([noise[np.triu_indices(d, 1)] for noise in noises]) * np.sqrt(2)
    ratios = (1 / of_mean) ** 2 + (0.75**2 / of_moments) ** 2
    assert ratios == pytest.approx(1 / 2.0**2, rel=0.05)


def test_cells_without_counts_do_not_affect_the_result(synthetic_hierarchy):
    rows = sp.csr_matrix(unit_rows(synthetic_hierarchy))
    empty = sp.vstack([rows, sp.csr_matrix((5, rows.shape[1]))], "csr")
    one, two = (
        private_directions(lambda r=r: [r], 420, 1.0, np.random.default_rng(0), n_comps=4)
        for r in (rows, empty)
    )
    np.testing.assert_allclose(one[1], two[1], atol=1e-10)


def test_little_noise_gives_the_directions_of_the_cells(synthetic_hierarchy):
    result = hdi.tl.dp_pca(synthetic_hierarchy, epsilon=100.0, n_comps=3, centred=False)
    exact = np.linalg.svd(unit_rows(synthetic_hierarchy), full_matrices=False)[2][:3]
    overlap = np.linalg.svd(exact @ result.components.T, compute_uv=False)
    assert overlap.min() > 0.9
    np.testing.assert_allclose(result.components @ result.components.T, np.eye(3), atol=1e-10)


def test_new_cells_are_projected_whatever_the_order_of_their_genes(synthetic_hierarchy):
    result = hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0, n_comps=6)
    expected = (unit_rows(synthetic_hierarchy)[:9] - result.centre) @ result.components.T
    new = synthetic_hierarchy[:9, ::-1].copy()
    np.testing.assert_allclose(result.transform(new), expected, rtol=1e-4, atol=1e-6)
    assert result.loadings.index.tolist() == synthetic_hierarchy.var_names.tolist()


def test_depth_is_of_all_genes_that_a_cell_has(synthetic_hierarchy):
    genes = synthetic_hierarchy.var_names[:40].tolist()
    result = hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0, genes=genes, n_comps=3, centred=False)
    values = log_normalize(synthetic_hierarchy.X)[:, :40].toarray()
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    np.testing.assert_allclose(
        result.transform(synthetic_hierarchy), unit @ result.components.T, rtol=1e-3, atol=1e-5
    )


def test_two_releases_differ_and_a_seed_voids_the_guarantee(synthetic_hierarchy):
    one, two = (hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0) for _ in range(2))
    assert not np.allclose(one.components, two.components)
    assert one.epsilon == 1.0
    seeded = [hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0, noise_seed=3) for _ in range(2)]
    np.testing.assert_array_equal(seeded[0].components, seeded[1].components)
    assert seeded[0].epsilon is None
    assert "not private" in repr(seeded[0])
    assert "noise_seed" in seeded[0].conditions[0]


def test_conditions_name_the_genes_unless_they_are_public(synthetic_hierarchy):
    told = hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0).conditions
    assert any("list of genes" in text for text in told)
    told = hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0, genes_are_public=True).conditions
    assert not any("list of genes" in text for text in told)
    assert any("donor" in text for text in told)


def test_labels_and_the_object_of_the_user_are_left_alone(synthetic_hierarchy):
    before = synthetic_hierarchy.copy()
    one = hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0, noise_seed=0)
    synthetic_hierarchy.obs = synthetic_hierarchy.obs.sample(frac=1, random_state=0).set_index(
        synthetic_hierarchy.obs_names
    )
    two = hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0, noise_seed=0)
    np.testing.assert_array_equal(one.components, two.components)
    assert (synthetic_hierarchy.X != before.X).nnz == 0
    assert not synthetic_hierarchy.obsm


def test_settings_out_of_range_are_refused(synthetic_hierarchy):
    for settings, text in [
        ({"epsilon": 0.0}, "epsilon must be a number from 0.001 to 100, got 0.0"),
        ({"epsilon": 1.0, "delta": 0.01}, "delta must be above 0 and below 1 / 420"),
        ({"epsilon": 1.0, "delta": 0.0}, "delta must be above 0"),
        ({"epsilon": 1.0, "n_comps": 121}, "n_comps must be at most the number of genes, 120"),
        ({"epsilon": 1.0, "noise_seed": -1}, "noise_seed must be an integer >= 0"),
    ]:
        with pytest.raises(ValueError, match=text):
            hdi.tl.dp_pca(synthetic_hierarchy, **settings)


def test_delta_is_compared_with_the_number_of_cells():
    check_delta(1e-5, 99_999)
    with pytest.raises(ValueError, match="below 1 / 100,000"):
        check_delta(1e-5, 100_000)


def test_other_values_than_counts_are_refused(synthetic_hierarchy):
    synthetic_hierarchy.X = synthetic_hierarchy.X * -1.0
    with pytest.raises(InputError):
        hdi.tl.dp_pca(synthetic_hierarchy, epsilon=1.0)
