"""Functions of `stacas`, against independent implementations."""

import numpy as np
import pytest
from scipy import sparse

from hdeepinsight import Taxonomy
from hdeepinsight.graph import nearest_neighbors
from hdeepinsight.pp._stacas._anchors import (
    RunSettings,
    StacasConfig,
    consistent_labels,
    encode_labels,
    mutual_neighbors,
    principal_axes,
    reciprocal_embeddings,
    score_anchors,
    weigh_anchors,
)
from hdeepinsight.pp._stacas._correction import AnchorWeights, guide_tree


@pytest.fixture
def two(draw):
    return draw(100, 1)[0], draw(90, 2)[0]


def spaces_of(first, second, n_dims=5):
    first, second = sparse.csr_matrix(first), sparse.csr_matrix(second)
    axes = [principal_axes(one, n_dims) for one in (first, second)]
    return axes, reciprocal_embeddings(first, second, *axes)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("n_dims", [4, 40])
def test_axes_are_singular_vectors(two, center, n_dims):
    wanted = two[0] - center * two[0].mean(0)
    right = np.linalg.svd(wanted, full_matrices=False)[2][:n_dims]
    found = principal_axes(sparse.csr_matrix(two[0]), n_dims, center=center)
    np.testing.assert_allclose(np.abs(right @ found), np.eye(n_dims), atol=1e-7)


def test_directions_without_variation_are_left_out():
    line = np.outer(np.arange(1.0, 9.0), [1.0, 2.0, 0.5])
    assert principal_axes(sparse.csr_matrix(line), 2).shape == (3, 1)
    assert principal_axes(sparse.csr_matrix(line), 3).shape == (3, 1)
    assert principal_axes(sparse.csr_matrix((5, 3)), 2).shape == (3, 1)


def test_reciprocal_space_is_cosine_of_scaled_dimensions(two):
    (axes, _), spaces = spaces_of(*two)
    rows = np.concatenate([two[0] @ axes, two[1] @ axes])
    rows /= rows.std(axis=0, ddof=1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(np.concatenate(spaces[0]), rows, atol=1e-10)


def test_signs_and_scales_of_dimensions_do_not_matter(two):
    axes, spaces = spaces_of(*two)
    factor = np.array([-1.0, 3.0, 1.0, -0.2, 1.0])
    values = [sparse.csr_matrix(one) for one in two]
    again = reciprocal_embeddings(*values, *(one * factor for one in axes))
    for old, new in zip(spaces, again, strict=True):
        np.testing.assert_allclose(new[0] @ new[1].T, old[0] @ old[1].T, atol=1e-10)


def test_anchors_are_the_mutual_neighbours_by_definition(two):
    _, spaces = spaces_of(*two)
    found = mutual_neighbors(spaces, 4, 10)
    d_first = np.linalg.norm(spaces[0][0][:, None] - spaces[0][1][None], axis=2)
    d_second = np.linalg.norm(spaces[1][0][:, None] - spaces[1][1][None], axis=2)
    near_first = np.argsort(np.argsort(d_first, axis=1), axis=1) < 4
    near_second = np.argsort(np.argsort(d_second, axis=0), axis=0) < 4
    x, y = np.nonzero(near_first & near_second)
    np.testing.assert_array_equal(found.first, x)
    np.testing.assert_array_equal(found.second, y)
    np.testing.assert_allclose(found.distance, (d_first[x, y] + d_second[x, y]) / 2)


def own(values, k):
    found, _ = nearest_neighbors(values, k=k - 1)
    return np.concatenate([np.arange(len(values))[:, None], found], axis=1)


def test_overlap_is_the_set_intersection(two):
    _, spaces = spaces_of(*two)
    found = mutual_neighbors(spaces, 5, 12)
    own_x, own_y = own(two[0], 12), own(two[1], 12)
    overlap = []
    for x, y in zip(found.first, found.second, strict=True):
        q = {("x", c) for c in own_x[x]} | {("y", c) for c in found.cross_first[x]}
        r = {("x", c) for c in found.cross_second[y]} | {("y", c) for c in own_y[y]}
        overlap.append(len(q & r))
    low, high = np.quantile(overlap, [0.01, 0.9])
    score = score_anchors(found, own_x, own_y)
    np.testing.assert_allclose(score, np.clip((np.array(overlap) - low) / (high - low), 0, 1))


def test_swapping_the_datasets_swaps_the_roles(two):
    _, spaces = spaces_of(*two)
    _, turned = spaces_of(*two[::-1])
    own_x, own_y = own(two[0], 12), own(two[1], 12)
    one, other = mutual_neighbors(spaces, 5, 12), mutual_neighbors(turned, 5, 12)
    order = np.lexsort((other.first, other.second))
    np.testing.assert_array_equal(one.first, other.second[order])
    np.testing.assert_array_equal(one.second, other.first[order])
    np.testing.assert_allclose(one.distance, other.distance[order])
    scores = score_anchors(one, own_x, own_y)
    np.testing.assert_array_equal(scores, score_anchors(other, own_y, own_x)[order])


def test_equal_overlaps_give_full_scores(two):
    _, spaces = spaces_of(*two)
    found = mutual_neighbors(spaces, 1, 1)
    only_self = [np.arange(len(values))[:, None] for values in two]
    assert set(score_anchors(found, *only_self)) == {1.0}


def closeness(distance):
    return weigh_anchors(np.asarray(distance), np.ones(len(distance))) ** (1 / 0.8)


def test_closeness_falls_with_distance_and_is_half_at_the_median():
    distance = np.linspace(0.1, 0.9, 9)
    close = closeness(distance)
    assert (np.diff(close) < 0).all()
    assert close[4] == pytest.approx(0.5, abs=3e-6)
    width = distance.std(ddof=1) / 2
    np.testing.assert_allclose(close, 1 / (1 + np.exp((distance - 0.5) / width)), atol=3e-6)


def test_scores_combine_closeness_and_neighbourhood():
    rng = np.random.default_rng(0)
    distance, agreement = rng.random(50), rng.random(50)
    mixed = weigh_anchors(distance, agreement)
    np.testing.assert_allclose(mixed, closeness(distance) ** 0.8 * agreement**0.2, atol=1e-4)
    assert mixed.min() >= 0
    assert mixed.max() <= 1


@pytest.mark.parametrize("distance", [[0.3], [0.3, 0.3, 0.3]], ids=["one_anchor", "equal"])
def test_equal_distances_have_closeness_one_half(distance):
    np.testing.assert_allclose(closeness(distance), 0.5, atol=3e-6)


def test_labels_agree_along_a_path_only():
    tree = Taxonomy.from_nested({"B": ["naive", "memory"], "T": ["CD4", "CD8"]})
    first = tree.encode(["B", "naive", "CD4", "CD4", None, "T"])
    second = tree.encode(["naive", "B", "CD8", "naive", "CD8", "T"])
    assert consistent_labels(first, second, tree).tolist() == [True, True, False, False, True, True]


def test_unknown_labels_have_one_code():
    import pandas as pd

    columns = [["b", "Unknown", None], [None, None], ["a", np.nan, "multi", "b", " NA"]]
    codes = encode_labels([pd.Series(column) for column in columns])
    assert [one.tolist() for one in codes] == [[2, 0, 0], [0, 0], [1, 0, 0, 2, 0]]


def test_tree_of_two_has_one_merge():
    tree = guide_tree(np.array([[0, 0.3], [0.3, 0]]), np.array([1.0, 2.0]))
    assert [(m.reference, m.query) for m in tree.merges] == [((1,), (0,))]


def test_single_linkage_depends_on_ranks_only():
    rng = np.random.default_rng(3)
    s = np.triu(rng.random((6, 6)), 1)
    s, strengths = s + s.T, rng.random(6)
    shapes = [
        [(m.reference, m.query) for m in guide_tree(t, strengths).merges]
        for t in (s, s**3, np.where(s > 0, 4 + 2 * s, 0))
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    tree = guide_tree(s, strengths)
    assert tree.base == strengths.argmax()
    assert all(tree.base not in m.query for m in tree.merges)


N_REFERENCE = 15


def weigh_cells(cells, spots, query, reference, scores, k_weight=100):
    """Weights of cells by their coordinates."""
    settings = RunSettings(StacasConfig(k_weight=k_weight), "auto")
    weights = AnchorWeights(np.eye(spots.shape[1]), spots, query, reference, scores, settings)
    return weights.weigh(sparse.csr_matrix(cells))


@pytest.fixture
def anchors():
    """Cells, anchor cells of the query, and 60 anchors between them and 15 reference cells."""
    rng = np.random.default_rng(0)
    cells, spots = rng.normal(size=(50, 3)), rng.normal(size=(20, 3))
    query, reference = rng.integers(20, size=60), rng.integers(N_REFERENCE, size=60)
    query[:20], reference[:N_REFERENCE] = np.arange(20), np.arange(N_REFERENCE)
    return cells, spots, np.sort(query) + N_REFERENCE, reference, rng.random(60)


def test_weights_are_those_of_the_formula(anchors):
    cells, spots, query, reference, scores = anchors
    found = weigh_cells(*anchors, k_weight=7)
    values = np.random.default_rng(1).normal(size=(N_REFERENCE + 20, 4))
    for c, cell in enumerate(cells):
        distance = np.linalg.norm(spots - cell, axis=1)
        order = np.argsort(distance)[:7]
        top, total = 0.0, 0.0
        for a in range(60):
            if (spot := query[a] - N_REFERENCE) in order:
                g = (1 - distance[spot] / distance[order[-1]]) * scores[a]
                h = 1 - np.exp(-g / 4)
                top, total = top + h * (values[query[a]] - values[reference[a]]), total + h
        change = found.shift[c] @ values
        np.testing.assert_allclose(np.ravel(change), -top / total, atol=1e-12)
    np.testing.assert_allclose(found.nearest, nearest_neighbors(cells, spots, k=1)[1].ravel())


def test_weights_of_either_side_sum_to_one(anchors):
    found = weigh_cells(*anchors, k_weight=7)
    there, here = found.shift[:, :N_REFERENCE], found.shift[:, N_REFERENCE:]
    np.testing.assert_allclose(there.sum(axis=1), 1)
    np.testing.assert_allclose(here.sum(axis=1), -1)
    assert there.min() >= 0 >= here.max()
    assert (found.n_effective >= 1).all()
    assert (found.n_effective <= 60).all()


def test_equal_cells_share_their_anchors():
    spots, index = np.ones((3, 2)), np.arange(3)
    found = weigh_cells(np.ones((1, 2)), spots, index + 3, index, np.ones(3))
    np.testing.assert_allclose(found.shift[:, :3].toarray(), 1 / 3)


def test_a_single_anchor_cell_corrects_only_itself():
    one, zero = np.ones(1, dtype=int), np.zeros(1, dtype=int)
    found = weigh_cells(np.array([[1.0], [2.0]]), np.ones((1, 1)), one, zero, np.ones(1))
    assert found.shift.toarray().tolist() == [[1.0, -1.0], [0.0, 0.0]]
    assert found.n_effective.tolist() == [1.0, 0.0]
