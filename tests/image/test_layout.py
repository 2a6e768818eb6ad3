import json
import pickle
import time

import numpy as np
import pytest
from scipy import sparse

from hdeepinsight.image import GeneLayout
from hdeepinsight.image._fit import gene_profiles, neighbors_kept


def names(n_genes: int) -> list[str]:
    return [f"G{i}" for i in range(n_genes)]


def modules(n_cells: int = 150, n_modules: int = 6, size: int = 10, seed: int = 0) -> np.ndarray:
    """Log-normalised values in which `size` genes at a time follow one factor."""
    rng = np.random.default_rng(seed)
    factor = np.repeat(rng.gamma(1.0, 1.0, size=(n_cells, n_modules)), size, axis=1)
    return np.log1p(rng.poisson(3 * factor))


def test_side_is_the_smallest_multiple_of_eight_that_holds_the_genes():
    for n_genes, side in [
        (1, 8),
        (64, 8),
        (65, 16),
        (3136, 56),
        (3137, 64),
        (4096, 64),
        (4097, 72),
    ]:
        assert GeneLayout.random(names(n_genes)).side == side
        assert side**2 >= n_genes


@pytest.mark.parametrize("method", ["tsne", "mde", "random"])
def test_every_gene_gets_a_pixel_of_its_own_and_the_seed_decides(method):
    x = modules()
    first = GeneLayout.fit(x, names(60), method=method, seed=3)
    assert len(set(first.pixel.tolist())) == 60
    assert first.side == 8
    assert first.method == method
    assert GeneLayout.fit(x, names(60), method=method, seed=3) == first
    assert GeneLayout.fit(x, names(60), method=method, seed=4) != first


@pytest.mark.parametrize("method", ["tsne", "tsne_published", "mde"])
def test_learned_layouts_keep_more_neighbours_than_random_ones(method):
    layout = GeneLayout.fit(modules(), names(60), method=method, side=16)
    assert layout.report["neighbors_kept"] > 3 * layout.report["neighbors_kept_random"]
    assert layout != GeneLayout.fit(modules(), names(60), method="random", side=16)


def test_sparse_and_dense_expression_give_one_layout():
    x = modules()
    layouts = [GeneLayout.fit(kind(x), names(60)) for kind in (np.asarray, sparse.csr_matrix)]
    assert layouts[0] == layouts[1]


def test_modules_stay_together_on_the_image():
    layout = GeneLayout.fit(modules(), names(60), side=16)
    distance = np.linalg.norm(layout.coordinates[:, None] - layout.coordinates, axis=-1)
    same = np.arange(60)[:, None] // 10 == np.arange(60) // 10
    assert distance[same].mean() < 0.4 * distance[~same].mean()


def test_random_is_the_same_with_and_without_expression():
    fitted = GeneLayout.fit(modules(), names(60), method="random", seed=5)
    np.testing.assert_array_equal(fitted.pixel, GeneLayout.random(names(60), seed=5).pixel)
    assert fitted.report["neighbors_kept"] == fitted.report["neighbors_kept_random"]
    assert "displacement_mean" not in fitted.report


@pytest.mark.parametrize("method", ["tsne", pytest.param("mde", marks=pytest.mark.slow)])
@pytest.mark.parametrize("n_genes", [1, 2, 3, 7, 8, 9, 17, 50])
def test_small_panels(method, n_genes):
    layout = GeneLayout.fit(modules()[:, :n_genes], names(n_genes), method=method)
    assert len(set(layout.pixel.tolist())) == n_genes
    assert 0.0 <= layout.report["neighbors_kept"] <= 1.0
    assert np.isfinite(list(layout.report.values())).all()


def test_one_cell_and_equal_profiles():
    layout = GeneLayout.fit(np.arange(1.0, 21.0)[None], names(20), side=8)
    assert len(set(layout.pixel.tolist())) == 20
    # All genes are at the centre, and get the twenty closest pixels.
    from_middle = np.linalg.norm(layout.coordinates + 0.5 - 4.0, axis=1)
    assert from_middle.max() < 3.0


def test_genes_without_expression_are_placed_at_the_edge():
    for as_matrix in [np.asarray, sparse.csr_array, sparse.csc_matrix]:
        x = modules()
        with_silent = np.zeros((150, 65))
        with_silent[:, 5:] = x
        layout = GeneLayout.fit(as_matrix(with_silent), names(65), side=16)
        alone = GeneLayout.fit(as_matrix(x), names(60), side=16)
        np.testing.assert_array_equal(layout.pixel[5:], alone.pixel)
        taken = set(alone.pixel.tolist())
        rim = [i for i in range(256) if {0, 15} & {*divmod(i, 16)} and i not in taken]
        assert layout.pixel[:5].tolist() == rim[:5]
        assert layout.report["silent_genes"] == 5
        assert layout.report["neighbors_kept"] == alone.report["neighbors_kept"]


def test_duplicated_profiles_share_a_neighbourhood():
    x = np.tile(modules()[:, ::2], 2)  # gene i and gene i + 30 are identical
    layout = GeneLayout.fit(x, names(60), side=24)
    distance = np.linalg.norm(layout.coordinates[:30] - layout.coordinates[30:], axis=1)
    assert np.median(distance) < 4.0


def test_fitting_does_not_modify_input_or_global_generators():
    x = sparse.csr_matrix(modules())
    before = x.copy()
    state = np.random.get_state()[1].copy()
    GeneLayout.fit(x, names(60), method="mde")
    assert (x != before).nnz == 0
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_displacement_is_small_where_there_is_room():
    report = GeneLayout.fit(modules(), names(60), side=64).report
    assert report["displacement_mean"] < 2.0
    assert report["displacement_mean"] <= report["displacement_p95"] <= report["displacement_max"]


def test_profiles_reproduce_cosines():
    x = modules(n_cells=40)
    profiles, expressed = gene_profiles(sparse.csr_matrix(x))
    assert expressed.all()
    unit = x / np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(profiles @ profiles.T, unit.T @ unit, atol=1e-9)


def test_reduced_profiles_have_unit_length_and_fifty_columns():
    profiles, _ = gene_profiles(np.random.default_rng(0).gamma(1.0, size=(200, 120)))
    assert profiles.shape == (120, 50)
    np.testing.assert_allclose(np.linalg.norm(profiles, axis=1), 1.0)


def test_neighbours_kept_equals_a_naive_loop():
    rng = np.random.default_rng(0)
    profiles = rng.normal(size=(40, 6))
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
    pixel = rng.permutation(1600)[:40]  # spread so wide that distances do not tie often
    position = np.stack(np.divmod(pixel, 40), axis=1)
    kept = 0
    for gene in range(40):
        others = [other for other in range(40) if other != gene]
        alike = sorted(others, key=lambda o: -profiles[gene] @ profiles[o])[:4]
        close = sorted(others, key=lambda o: np.hypot(*(position[gene] - position[o])))[:4]
        kept += len(set(alike) & set(close))
    assert neighbors_kept(profiles, pixel, 40, k=4) == pytest.approx(kept / 160, abs=0.02)


def test_neighbours_kept_is_one_for_a_perfect_picture():
    angle = np.linspace(0, np.pi / 2, 12) ** 1.1  # genes on an arc keep their order on a line
    profiles = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    pixel = np.rint(angle / angle.max() * 900).astype(int)
    assert neighbors_kept(profiles, pixel, 1000, k=3) == 1.0


def test_round_trip_through_json_and_pickle():
    layout = GeneLayout.fit(modules(), names(60))
    assert GeneLayout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout
    again = pickle.loads(pickle.dumps(layout))
    assert again == layout
    assert hash(again) == hash(layout)


def test_layout_is_frozen_and_keeps_its_own_pixels():
    pixel = np.array([4, 7])
    layout = GeneLayout(("A", "B"), pixel, 3)
    pixel[:] = 0
    assert layout.pixel.tolist() == [4, 7]
    with pytest.raises(ValueError, match="read-only"):
        layout.pixel[0] = 1
    with pytest.raises(AttributeError):
        layout.side = 5


def test_repr_is_one_line():
    assert repr(GeneLayout.random(["A", "B"], side=2)) == (
        "GeneLayout(2 genes on 2 × 2 pixels, method='random', occupancy 50%)"
    )


def test_invalid_layouts_are_refused():
    for changes, error, match in [
        ({"genes": ("A", "A", "B")}, ValueError, r"repeated names: \['A'\]"),
        ({"genes": ("A", 1, "B")}, TypeError, "strings"),
        ({"genes": ("A", None, "B")}, TypeError, "None of type NoneType"),
        ({"genes": "CD4"}, TypeError, "the string 'CD4'"),
        ({"genes": (), "pixel": []}, ValueError, "at least one"),
        ({"pixel": [0, 1]}, ValueError, "3 genes and pixels of shape"),
        ({"pixel": [0, 1, 1]}, ValueError, "first is pixel 1"),
        ({"pixel": [0, 1, 4]}, ValueError, r"\[0, 3\]"),
        ({"pixel": [0, -1, 2]}, ValueError, "got -1 to 2"),
        ({"pixel": [0.0, 1.0, 2.0]}, TypeError, "integers"),
        ({"side": 1}, ValueError, "integer >= 2, got 1"),
        ({"side": 2.0}, ValueError, "integer"),
        ({"side": -2}, ValueError, "integer >= 2"),
    ]:
        with pytest.raises(error, match=match):
            GeneLayout(**{"genes": ("A", "B", "C"), "pixel": [0, 1, 2], "side": 2} | changes)


def test_bad_input_is_refused_with_a_reason():
    for x, options, match in [
        (np.ones((5, 4)), {}, r"got the shape \(5, 4\)"),
        (np.ones(3), {}, "one column per name"),
        (np.zeros((5, 3)), {}, "GeneLayout.random"),
        (np.full((5, 3), np.nan), {}, "NaN or infinite"),
        (np.ones((5, 3)), {"method": "pca"}, "one of 'tsne'"),
        (np.ones((5, 3)), {"side": 1}, "Each of 3 genes"),
    ]:
        with pytest.raises(ValueError, match=match):
            GeneLayout.fit(x, names(3), **options)


def test_from_dict_names_what_is_missing():
    with pytest.raises(ValueError, match="'side'"):
        GeneLayout.from_dict({"genes": ["A"], "pixel": [0]})


def correlated(n_genes: int) -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    factor = rng.gamma(0.3, 1.0, size=(1000, 20)) @ rng.gamma(0.2, 1.0, size=(20, n_genes))
    return sparse.csr_matrix(np.log1p(rng.poisson(0.2 * factor)))


def test_the_default_keeps_as_many_neighbours_as_the_published_settings():
    methods = ("tsne", "tsne_published")
    layouts = [GeneLayout.fit(correlated(500), names(500), method=each) for each in methods]
    ours, published = (layout.report["neighbors_kept"] for layout in layouts)
    assert ours > 0.95 * published


@pytest.mark.slow
def test_four_thousand_genes_fit_in_seconds():
    x = correlated(4000)
    start = time.process_time()
    layout = GeneLayout.fit(x, names(4000))
    assert time.process_time() - start < 20
    assert layout.side == 64
    assert layout.report["neighbors_kept"] > 10 * layout.report["neighbors_kept_random"]
