import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from hdeepinsight import tl


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray]:
    """150 cells in three clouds of ten dimensions, and the cloud of each."""
    rng = np.random.default_rng(0)
    cloud = np.repeat([0, 1, 2], 50)
    return rng.normal(size=(150, 10)) + 6 * rng.normal(size=(3, 10))[cloud], cloud


def test_clouds_stay_apart_and_points_are_standardised(clouds):
    latent, cloud = clouds
    points = tl.mde(latent)
    assert points.shape == (150, 2)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(np.cov(points.T, bias=True), np.eye(2), atol=1e-3)
    assert silhouette_score(points, cloud) > 0.5


def test_same_seed_same_picture_and_generators_stay_as_they_are(clouds):
    latent, _ = clouds
    np.random.seed(5)
    torch.manual_seed(5)
    expected = np.random.random(), torch.rand(1).item()
    np.random.seed(5)
    torch.manual_seed(5)
    first = tl.mde(latent, seed=1)
    assert (np.random.random(), torch.rand(1).item()) == expected
    np.testing.assert_array_equal(first, tl.mde(latent, seed=1))
    assert not np.array_equal(first, tl.mde(latent, seed=2))


def test_an_anndata_is_read_and_left_alone(clouds):
    latent, _ = clouds
    adata = ad.AnnData(np.ones((150, 1), dtype=np.float32), obsm={"X_hdi": latent.copy()})
    np.testing.assert_array_equal(tl.mde(adata, use_rep="X_hdi"), tl.mde(latent))
    assert list(adata.obsm) == ["X_hdi"]
    np.testing.assert_array_equal(adata.obsm["X_hdi"], latent)


def test_equal_cells_and_few_features():
    latent = np.repeat(np.arange(10.0), 3)[:, None]
    points = tl.mde(latent, n_neighbors=4)
    assert points.shape == (30, 2)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("n_cells", [0, 1, 2, 7])
def test_few_cells_lie_on_their_principal_plane(n_cells):
    latent = np.random.default_rng(0).normal(size=(n_cells, 5))
    points = tl.mde(latent)
    assert points.shape == (n_cells, 2)
    assert np.isfinite(points).all()
    # two components leave distances alone up to one factor; with two cells exactly
    if n_cells == 2:
        np.testing.assert_allclose(points[0], -points[1], atol=1e-6)


def test_cells_that_are_all_equal():
    np.testing.assert_array_equal(tl.mde(np.ones((20, 4))), np.zeros((20, 2)))


def test_more_neighbours_than_cells():
    points = tl.mde(np.random.default_rng(0).normal(size=(12, 3)), n_neighbors=50)
    assert np.isfinite(points).all()


@pytest.mark.parametrize(
    ("data", "options", "error", "match"),
    [
        pytest.param(np.ones(5), {}, ValueError, r"shape \(5,\)", id="one_dimension"),
        pytest.param(np.ones((5, 0)), {}, ValueError, r"shape \(5, 0\)", id="no_feature"),
        pytest.param([[1.0, np.nan]], {}, ValueError, "1 of 1 cells", id="nan"),
        pytest.param(
            np.ones((9, 2)), {"n_neighbors": 0}, ValueError, "n_neighbors must be", id="no_k"
        ),
        pytest.param(np.ones((9, 2)), {"use_rep": "X"}, ValueError, "beside an array", id="rep"),
        pytest.param(
            ad.AnnData(np.ones((3, 2))), {}, ValueError, "use_rep must be the name", id="no_rep"
        ),
        pytest.param(
            ad.AnnData(np.ones((3, 2))), {"use_rep": "X_pca"}, KeyError, "X_pca", id="absent"
        ),
    ],
)
def test_bad_input_is_refused(data, options, error, match):
    with pytest.raises(error, match=match):
        tl.mde(data, **options)
