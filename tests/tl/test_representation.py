"""Principal components compared with scanpy, and two-dimensional embeddings."""

import subprocess
import sys
from collections.abc import Iterator

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse
from sklearn.metrics import silhouette_score

import hdeepinsight as hdi
from hdeepinsight.data import open_query

WITHOUT_A_FOLDER = """
from numba.core.caching import CacheImpl
CacheImpl._locator_classes = []  # as if neither packages nor home were writable
try:
    import scanpy
except RuntimeError as error:
    assert "no locator available" in str(error)
else:
    raise AssertionError("scanpy can be imported, so this shows nothing")
"""
SCRIPT = """
import anndata as ad
import numpy as np
import hdeepinsight as hdi
rng = np.random.default_rng(0)
cells = ad.AnnData(rng.poisson(1.0, (80, 60)).astype("float32"))
hdi.tl.expression_pca(cells, n_top_genes=30, key_added="X_pca")
result = hdi.tl.refine(cells, rng.dirichlet([1, 1], 80), classes=["B", "T"])
assert result.after.shape == (80, 2)
try:
    hdi.graph.nearest_neighbors(cells.obsm["X_pca"], k=3, exact=False)
except hdi.graph.NumbaCacheError as error:
    print(error)
"""


@pytest.fixture
def counts() -> ad.AnnData:
    """200 cells and 300 genes of different means and dispersions, some of them constant."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 2.0, 300) * rng.lognormal(0, 0.5, (200, 300))
    values = rng.poisson(rates).astype(np.float32)
    values[:, 5], values[:, 9] = 0, 2
    obs = pd.DataFrame({"batch": rng.choice(["a", "b"], 200)}, index=[f"c{i}" for i in range(200)])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(300)])
    return ad.AnnData(sparse.csr_matrix(values), obs=obs, var=var)


def by_scanpy(counts: ad.AnnData, **options: int) -> np.ndarray:
    copy = counts.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    if "n_top_genes" in options:
        sc.pp.highly_variable_genes(copy, n_top_genes=options["n_top_genes"])
        copy = copy[:, copy.var["highly_variable"].to_numpy()].copy()
    sc.pp.pca(copy, n_comps=options["n_comps"], random_state=0)
    return copy.obsm["X_pca"]


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


@pytest.mark.parametrize("n_top_genes", [40, 120, 250])
def test_genes_and_components_are_scanpy_s(counts, n_top_genes):
    options = {"n_top_genes": n_top_genes, "n_comps": 5}
    points = hdi.tl.expression_pca(counts, **options)
    np.testing.assert_allclose(
        distances(points), distances(by_scanpy(counts, **options)), atol=2e-3
    )


def test_every_store_of_the_counts_gives_the_same(counts, tmp_path):
    expected = hdi.tl.expression_pca(counts, n_top_genes=100)
    counts.write_h5ad(tmp_path / "counts.h5ad")
    dense = ad.AnnData(counts.X.toarray(), obs=counts.obs, var=counts.var)
    opened = open_query(tmp_path / "counts.h5ad", list(counts.var_names[:20]))
    blocks = [counts.X[:70], counts.X[70:]]
    for cells in (dense, tmp_path / "counts.h5ad", opened, blocks):
        found = hdi.tl.expression_pca(cells, n_top_genes=100)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_opened_query_is_refined_with_one_pass(counts, tmp_path):
    p = np.random.default_rng(1).dirichlet([1, 1, 1], 200)
    settings = {"classes": ["B", "T", "NK"], "batch_key": "batch"}
    counts.obsm["X_pca"] = hdi.tl.expression_pca(counts)
    expected = hdi.tl.refine(counts, p, **settings)
    counts.write_h5ad(tmp_path / "counts.h5ad")
    opened = open_query(tmp_path / "counts.h5ad", list(counts.var_names[:20]))
    before, scans = opened.n_passes, opened.n_scans
    result = hdi.tl.refine(opened, p, **settings)
    assert (opened.n_passes, opened.n_scans) == (before + 1, scans)
    np.testing.assert_allclose(result.after, expected.after, atol=1e-6)
    kept = []
    for _ in opened.chunks(keep=kept):
        pass
    points = hdi.tl.expression_pca(kept)
    again = hdi.tl.refine(opened, p, use_rep=points, **settings)
    np.testing.assert_allclose(again.after, expected.after, atol=1e-6)
    assert opened.n_passes == before + 2
    with pytest.raises(ValueError, match="key_added must be None for cells of type AlignedQuery"):
        hdi.tl.expression_pca(opened, key_added="X_pca")
    assert opened.n_passes == before + 2, "nothing is read for a result that cannot be written"
    with pytest.raises(KeyError, match="obsm has no key 'X_scvi'"):
        hdi.tl.refine(opened, p, use_rep="X_scvi", **settings)


def test_an_invalid_key_is_refused_before_computing(counts):
    for key in ["", " ", 3]:
        with pytest.raises(ValueError, match="key_added must be a name such as 'hdi', got"):
            hdi.tl.expression_pca(counts, key_added=key)
    for call in (
        hdi.tl.mde,
        lambda path: hdi.tl.audit_labels(path, labels_key="louvain"),
        lambda path: hdi.tl.read_scores(path, pd.DataFrame(), hdi.Taxonomy.from_nested(["T"])),
        lambda path: hdi.tl.refine(path, np.ones((2, 2)), classes=["T", "B"]),
    ):
        with pytest.raises(TypeError, match=r"got the path cells\.h5ad\. Pass .*read_anndata"):
            call("cells.h5ad")


def test_blocks_are_not_modified(counts):
    blocks = [counts.X.copy()]
    hdi.tl.expression_pca(blocks)
    assert (blocks[0] != counts.X).nnz == 0
    with pytest.raises(ValueError, match="got 0 cells"):
        hdi.tl.expression_pca([])


@pytest.mark.slow
def test_refining_works_where_numba_finds_no_folder_for_its_cache():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_FOLDER + SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Set the environment variable NUMBA_CACHE_DIR" in done.stdout


def test_representation_is_scanpy_s_and_leaves_the_counts_alone(synthetic_hierarchy):
    adata = synthetic_hierarchy
    before = adata.X.copy()
    points = hdi.tl.expression_pca(adata, n_comps=10, key_added="X_pca")
    assert (before != adata.X).nnz == 0
    copy = adata.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    sc.pp.pca(copy, n_comps=10, random_state=0)
    np.testing.assert_allclose(np.abs(points), np.abs(copy.obsm["X_pca"]), atol=1e-3)
    assert np.array_equal(adata.obsm["X_pca"], points)
    adata.X = adata.X * 0.5
    with pytest.raises(ValueError, match="X looks fractional_counts"):
        hdi.tl.expression_pca(adata)
    with pytest.raises(ValueError, match="got 2 cells"):
        hdi.tl.expression_pca(ad.AnnData(np.ones((2, 9), dtype=np.float32)))


def test_a_representation_of_nothing_is_refused():
    for arguments, error, message in [
        ({"n_top_genes": 0}, ValueError, "n_top_genes must be .* got 0"),
        ({"n_comps": -1}, ValueError, "n_comps must be .* got -1"),
        ({"layer": "raw"}, ValueError, r"no layers\['raw'\]"),
    ]:
        counts = np.random.default_rng(0).poisson(1.0, (9, 9)).astype(np.float32)
        with pytest.raises(error, match=message):
            hdi.tl.expression_pca(ad.AnnData(counts), **arguments)
        counts[1:] = counts[0]
        with pytest.raises(ValueError, match="got 9 cells and 0 such genes"):
            hdi.tl.expression_pca(ad.AnnData(counts))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, since tiny problems take minutes with many threads on few cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray]:
    """150 cells in three clouds of ten dimensions, and the cloud of each."""
    rng = np.random.default_rng(0)
    cloud = np.repeat([0, 1, 2], 50)
    return rng.normal(size=(150, 10)) + 6 * rng.normal(size=(3, 10))[cloud], cloud


def test_clouds_stay_apart_and_points_are_standardised(clouds):
    latent, cloud = clouds
    points = hdi.tl.mde(latent)
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
    first = hdi.tl.mde(latent, seed=1)
    assert (np.random.random(), torch.rand(1).item()) == expected
    np.testing.assert_array_equal(first, hdi.tl.mde(latent, seed=1))
    assert not np.array_equal(first, hdi.tl.mde(latent, seed=2))


def test_an_anndata_is_read_and_left_alone(clouds):
    latent, _ = clouds
    adata = ad.AnnData(np.ones((150, 1), dtype=np.float32), obsm={"X_hdi": latent.copy()})
    np.testing.assert_array_equal(hdi.tl.mde(adata, use_rep="X_hdi"), hdi.tl.mde(latent))
    assert list(adata.obsm) == ["X_hdi"]
    np.testing.assert_array_equal(adata.obsm["X_hdi"], latent)


def test_equal_cells_and_few_features():
    latent = np.repeat(np.arange(10.0), 3)[:, None]
    points = hdi.tl.mde(latent, n_neighbors=4)
    assert points.shape == (30, 2)
    assert np.isfinite(points).all()


def test_few_cells_lie_on_their_principal_plane():
    for n_cells in [0, 1, 2, 7]:
        latent = np.random.default_rng(0).normal(size=(n_cells, 5))
        points = hdi.tl.mde(latent)
        assert points.shape == (n_cells, 2)
        assert np.isfinite(points).all()
        # with two components, distances are preserved up to a factor
        if n_cells == 2:
            np.testing.assert_allclose(points[0], -points[1], atol=1e-6)


def test_cells_that_are_all_equal():
    np.testing.assert_array_equal(hdi.tl.mde(np.ones((20, 4))), np.zeros((20, 2)))


def test_more_neighbours_than_cells():
    points = hdi.tl.mde(np.random.default_rng(0).normal(size=(12, 3)), n_neighbors=50)
    assert np.isfinite(points).all()


def test_bad_input_is_refused():
    for data, options, error, match in [
        (np.ones(5), {}, ValueError, "Expected 2D array"),
        (np.ones((5, 0)), {}, ValueError, r"0 feature.* \(shape=\(5, 0\)\)"),
        ([[1.0, np.nan]], {}, ValueError, "data contains NaN"),
        (np.ones((9, 2)), {"n_neighbors": 0}, ValueError, "n_neighbors must be"),
        (np.ones((9, 2)), {"use_rep": "X"}, ValueError, "None for an array"),
        (ad.AnnData(np.ones((3, 2))), {}, ValueError, "use_rep must be a key"),
        (ad.AnnData(np.ones((3, 2))), {"use_rep": "X_pca"}, KeyError, "X_pca"),
    ]:
        with pytest.raises(error, match=match):
            hdi.tl.mde(data, **options)
