"""Novelty on features: what is usual, what is strange, and which cells are stopped."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from hdeepinsight.annotation import FeatureCells, NoveltyDetector, published_rare
from hdeepinsight.taxonomy import Taxonomy

WIDTH = 12


def cells(centres, index, rng, depth=None):
    """Features around the centres, noisier where counts are few."""
    depth = np.full(len(index), 1000.0) if depth is None else depth
    noise = rng.normal(size=(len(index), WIDTH)) * np.sqrt(1000.0 / depth)[:, None]
    return FeatureCells((centres[index] + noise).astype(np.float32), depth.astype(np.float32))


@pytest.fixture(scope="module")
def fitted():
    """A detector of the tree's leaves, and a function that draws more cells of any leaf."""
    tree = Taxonomy.from_nested({"T": ["CD4", "CD8", "gd"], "B": ["naive", "memory"]})
    rng = np.random.default_rng(0)
    bases = 6.0 * rng.normal(size=(tree.n_nodes, WIDTH))
    centres = bases[tree.node_at_level[:, 0]] + 1.5 * rng.normal(size=(tree.n_nodes, WIDTH))
    nodes = rng.choice(tree.leaves, size=600)
    held_out = np.tile(rng.choice(tree.leaves, size=300), 2)
    depth = np.repeat([1000.0, 250.0], 300)
    detector = NoveltyDetector.fit(
        tree, cells(centres, nodes, rng), nodes, cells(centres, held_out, rng, depth)
    )
    return tree, centres, detector


def test_cells_far_from_everything_are_strange(fitted):
    tree, centres, detector = fitted
    rng = np.random.default_rng(1)
    known = detector.measure(cells(centres, rng.choice(tree.leaves, size=400), rng))
    new = detector.measure(cells(-centres, rng.choice(tree.leaves, size=400), rng))
    assert new["score"].min() > np.quantile(known["score"], 0.99)
    assert (new["p_value"] < 0.01).all()


@pytest.mark.parametrize("depth", [250.0, 500.0, 1000.0])
def test_false_alarms_are_as_many_as_asked_for_at_every_depth(fitted, depth):
    tree, centres, detector = fitted
    rng = np.random.default_rng(2)
    index = rng.choice(tree.leaves, size=3000)
    found = detector.measure(cells(centres, index, rng, np.full(3000, depth)))
    for name in ("p_value", "lineage_p_value"):
        for alpha in (0.05, 0.2):
            assert abs((found[name] <= alpha).mean() - alpha) < 0.4 * alpha + 0.02
    assert found["p_value"].min() >= 1 / 601


def test_a_new_type_of_a_known_lineage_is_far_but_recognised(fitted):
    tree, centres, detector = fitted
    rng = np.random.default_rng(3)
    middle = centres.copy()
    lineage = centres[tree.leaves_under(1)].mean(axis=0)
    middle[1] = lineage + 2.5 * (lineage - centres[tree.leaves_under(1)[0]])
    found = detector.measure(cells(middle, np.ones(300, int), rng))
    assert (found["p_value"] <= 0.05).mean() > 0.8
    assert (found["lineage_p_value"] <= 0.05).mean() < 0.2


def test_what_is_said_of_a_cell_does_not_depend_on_the_others(fitted):
    tree, centres, detector = fitted
    rng = np.random.default_rng(4)
    many = cells(centres, rng.choice(tree.leaves, size=50), rng)
    together = detector.measure(many)
    for i in (0, 7, 49):
        alone = detector.measure(FeatureCells(many.latent[[i]], many.depth[[i]]))
        for name, values in alone.items():
            np.testing.assert_allclose(values, together[name][[i]], rtol=1e-9)


def test_distance_equals_a_plain_loop(fitted):
    """Recognition and distance against scikit-learn's own covariance and decision function."""
    from sklearn.covariance import LedoitWolf

    tree, centres, _ = fitted
    rng = np.random.default_rng(5)
    nodes = rng.choice(tree.leaves, size=400)
    reference = cells(centres, nodes, rng)
    usual = cells(centres, rng.choice(tree.leaves, size=100), rng)
    detector = NoveltyDetector.fit(tree, reference, nodes, usual)
    latent = reference.latent.astype(float)
    means = {node: latent[nodes == node].mean(axis=0) for node in np.unique(nodes)}
    within = latent - np.stack([means[node] for node in nodes])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(within).covariance_)
    white = usual.latent.astype(float) @ detector.whitening
    for i, cell in enumerate(usual.latent.astype(float)):
        expected = [(cell - mean) @ precision @ (cell - mean) for mean in means.values()]
        found = ((white[i] - detector.centres) ** 2).sum(axis=1)
        np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-4)


def test_plain_types_give_the_same_detector(fitted):
    tree, centres, detector = fitted
    again = NoveltyDetector.from_dict(detector.to_dict())
    some = cells(centres, tree.leaves, np.random.default_rng(6))
    for name, values in detector.measure(some).items():
        np.testing.assert_array_equal(again.measure(some)[name], values)
    assert repr(again) == repr(detector)


@pytest.mark.parametrize(
    "nested",
    [
        pytest.param({"T": ["CD4", "CD8"]}, id="one lineage"),
        pytest.param({"T": {"CD4": ["naive"]}}, id="one type"),
        pytest.param({"T": [], "B": []}, id="flat"),
    ],
)
def test_small_trees_and_dead_features(nested):
    tree = Taxonomy.from_nested(nested)
    rng = np.random.default_rng(7)
    centres = 5.0 * rng.normal(size=(tree.n_nodes, WIDTH))
    nodes = rng.choice(tree.leaves, size=60)
    reference, usual = cells(centres, nodes, rng), cells(centres, nodes, rng)
    for part in (reference, usual):
        part.latent[:, :3] = 0.0
    detector = NoveltyDetector.fit(tree, reference, nodes, usual)
    found = detector.measure(FeatureCells(usual.latent + 9.0, usual.depth))
    assert all(np.isfinite(values).all() for values in found.values())
    assert (found["p_value"] < 0.05).all()


@pytest.mark.parametrize(("n_known", "n_held_out"), [(0, 5), (5, 0)])
def test_nothing_to_learn_from_is_refused(two_levels, n_known, n_held_out):
    def zeros(n):
        return FeatureCells(np.zeros((n, 2)), np.ones(n))

    nodes = np.array([3] * n_known + [0] * (5 - n_known))
    with pytest.raises(ValueError, match=r"at least one of each is needed.*validation_size"):
        NoveltyDetector.fit(two_levels, zeros(5), nodes, zeros(n_held_out))


@pytest.fixture
def strange(taxonomy, annotated):
    """An annotation with random p-values."""
    rng = np.random.default_rng(8)
    result = annotated(taxonomy, n_cells=80)
    p = {name: rng.random(80) for name in ("score", "p_value", "lineage_p_value")}
    return annotated(taxonomy, n_cells=80, novelty=pd.DataFrame(p, index=result.obs_names))


@pytest.mark.parametrize("unknown", ["lineage", "type"])
def test_rejection_only_moves_up_the_path(strange, unknown):
    tree = strange.taxonomy
    steps = [strange.rejected(alpha, unknown=unknown) for alpha in (0.0, 0.1, 0.4, 1.0)]
    np.testing.assert_array_equal(steps[0].stop_nodes, strange.stop_nodes)
    for lower, higher in pairwise(steps):
        for below, above in zip(lower.stop_nodes, higher.stop_nodes, strict=True):
            assert tree.lca(int(below), int(above)) == above
    assert (steps[-1].stop_nodes == 0).all()
    assert set(steps[-1].labels["stop_label"]) == {"Unknown"}
    np.testing.assert_array_equal(steps[-1].leaf_nodes, strange.leaf_nodes)


def test_rejected_cells_stop_where_the_rule_says(strange):
    p, tree = strange.novelty, strange.taxonomy
    at_root = (p["lineage_p_value"] <= 0.3).to_numpy()
    np.testing.assert_array_equal(
        strange.rejected(0.3).stop_nodes, np.where(at_root, 0, strange.stop_nodes)
    )
    far = (p["p_value"] <= 0.3).to_numpy() & ~at_root
    depth = tree.depth[strange.rejected(0.3, unknown="type").stop_nodes]
    before = tree.depth[strange.stop_nodes]
    np.testing.assert_array_equal(depth[far], np.minimum(before[far], 1))
    np.testing.assert_array_equal(depth[~far & ~at_root], before[~far & ~at_root])


def test_rejecting_twice_keeps_both(strange):
    twice = strange.rejected(0.1).rejected(0.3, unknown="type")
    back = strange.rejected(0.3, unknown="type").rejected(0.1)
    np.testing.assert_array_equal(twice.stop_nodes, back.stop_nodes)


WRONG = [
    pytest.param({"alpha": -0.1}, "number from 0 to 1", id="negative alpha"),
    pytest.param({"alpha": 1.1}, "number from 0 to 1", id="alpha above one"),
    pytest.param({"unknown": "cell"}, "lineage", id="unknown rule"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_bad_arguments_are_refused(strange, arguments, says):
    with pytest.raises(ValueError, match=says):
        strange.rejected(**arguments)


def test_rejection_without_novelty_is_refused(two_levels, annotated):
    with pytest.raises(ValueError, match=r"nothing about novelty.*validation_size"):
        annotated(two_levels).rejected()


def test_published_rare_equals_a_plain_loop(ragged, annotated):
    result = annotated(ragged, n_cells=400)
    flagged = published_rare(result, q_base=0.5, q_sub=0.3)
    p = result.node_probabilities
    bases = list(ragged.children(0))
    group = [max(bases, key=lambda v: row[v]) for row in p]
    expected = np.zeros(400, dtype=bool)
    for base in bases:
        children = ragged.children(int(base))
        rows = [i for i in range(400) if group[i] == base]
        if len(children) < 2 or not rows:
            continue
        shares = [max(p[i, children]) / p[i, base] for i in rows]
        sure, unsure = np.quantile(p[rows, base], 0.5), np.quantile(shares, 0.3)
        for i, share in zip(rows, shares, strict=True):
            expected[i] = p[i, base] > sure and share < unsure
    np.testing.assert_array_equal(flagged, expected)
    assert 0 < expected.sum() < 400


def test_published_rare_flags_some_though_nothing_is_new_and_few_of_any_group(ragged, annotated):
    result = annotated(ragged, n_cells=1000)
    flagged = published_rare(result).to_numpy()
    base = ragged.children(0)[result.node_probabilities[:, ragged.children(0)].argmax(axis=1)]
    assert flagged.any()
    for node in ragged.children(0):
        share = flagged[base == node].mean()
        assert share <= 0.1
        assert share == 0 or ragged.n_children[node] > 1
    assert isinstance(published_rare(result), pd.Series)
    assert published_rare(annotated(ragged, n_cells=0)).empty


@pytest.mark.parametrize("name", ["q_base", "q_sub"])
def test_quantiles_outside_their_range_are_refused(two_levels, annotated, name):
    with pytest.raises(ValueError, match=rf"{name} must be a number from 0 to 1, got 60.*0\.6"):
        published_rare(annotated(two_levels), **{name: 60})


def test_the_p_value_stands_beside_the_labels(strange):
    frame = strange.to_frame()
    assert frame.columns[-1] == "lineage_p_value"
    np.testing.assert_array_equal(frame["lineage_p_value"], strange.novelty["lineage_p_value"])


def test_labels_of_other_cells_are_refused():
    tree = Taxonomy.from_nested({"T": [], "B": []})
    cells = FeatureCells(np.zeros((4, 2)), np.ones(4))
    with pytest.raises(ValueError, match="for each of 4 cells"):
        NoveltyDetector.fit(tree, cells, tree.encode(["T", "B"]), cells)
