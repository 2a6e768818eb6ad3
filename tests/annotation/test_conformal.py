"""Conformal label sets: coverage, nesting and limits."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from hdeepinsight.annotation import Annotation, Calibration, calibrate, conformal_threshold

ALPHAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
KINDS = ("nodes", "leaves")
of_both_kinds = pytest.mark.parametrize("kind", KINDS)


def draw_truth(taxonomy, probabilities, seed=0):
    """Leaf of every cell, drawn from its own probabilities."""
    rng = np.random.default_rng(seed)
    cumulative = probabilities[:, taxonomy.leaves].cumsum(axis=1)
    drawn = (rng.random((len(cumulative), 1)) > cumulative / cumulative[:, -1:]).sum(axis=1)
    return taxonomy.leaves[drawn]


def sharpen(taxonomy, probabilities, power=3.0):
    """Over-confident node probabilities: those of the leaves to a power, summed up the tree."""
    leaves = probabilities[:, taxonomy.leaves] ** power
    leaves /= leaves.sum(axis=1, keepdims=True)
    return leaves @ taxonomy.ancestor_matrix


@pytest.fixture
def known(ragged, probabilities):
    """Over-confident annotation of 1,500 cells, and their true leaves."""
    p = probabilities(ragged, 1500, seed=3, sharpness=1.5)
    names = pd.Index([f"cell_{i}" for i in range(len(p))])
    result = Annotation(taxonomy=ragged, obs_names=names, node_probabilities=sharpen(ragged, p))
    return result, draw_truth(ragged, p)


def part(result, rows):
    return Annotation(
        taxonomy=result.taxonomy,
        obs_names=result.obs_names[rows],
        node_probabilities=result.node_probabilities[rows],
    )


@of_both_kinds
@pytest.mark.parametrize("groups", [None, 1])
@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_mean_coverage_over_200_exchangeable_splits_is_guaranteed(known, kind, groups, alpha):
    result, truth = known
    overconfident = (result.leaf_nodes == truth).mean()
    assert overconfident < 1 - alpha  # or the guess alone would cover enough
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        order = rng.permutation(len(result))
        first, second = order[:500], order[500:]
        calibration = calibrate(part(result, first), truth[first])
        sets = part(result, second).label_sets(
            alpha, kind=kind, groups=groups, calibration=calibration
        )
        covered.append(sets.coverage(truth[second]))
    assert abs(np.mean(covered) - (1 - alpha)) < 0.02
    # The promise itself, within the Monte Carlo error of 200 repetitions.
    assert np.mean(covered) >= 1 - alpha - 2 * np.std(covered) / np.sqrt(200)


def test_groups_have_coverage_where_all_cells_together_do_not(ragged, probabilities):
    p = probabilities(ragged, 1500, seed=4, sharpness=1.5)
    truth = draw_truth(ragged, p)
    base = ragged.node_at_level[ragged.leaves[p[:, ragged.leaves].argmax(axis=1)], 0]
    # Over-confident about one lineage only.
    said = np.where((base == 1)[:, None], sharpen(ragged, p, 6.0), p)
    names = pd.Index(np.arange(len(p)).astype(str))
    result = Annotation(taxonomy=ragged, obs_names=names, node_probabilities=said)
    rng = np.random.default_rng(1)
    covered = {None: [], 1: []}
    for _ in range(60):
        first, second = np.split(rng.permutation(len(p)), [700])
        calibration = calibrate(part(result, first), truth[first])
        for groups, shares in covered.items():
            sets = part(result, second).label_sets(0.3, groups=groups, calibration=calibration)
            held = sets.holds(truth[second])
            shares.append([held[base[second] == node].mean() for node in (1, 2, 3, 4)])
    error = {groups: np.abs(np.mean(shares, axis=0) - 0.7) for groups, shares in covered.items()}
    assert error[1].max() < 0.03
    assert error[None].max() > 0.05


@of_both_kinds
@pytest.mark.parametrize("groups", [None, 1, 2])
def test_sets_are_nested_in_alpha(known, kind, groups):
    result, truth = known
    calibration = calibrate(part(result, slice(0, 700)), truth[:700])
    sets = [
        result.label_sets(alpha, kind=kind, groups=groups, calibration=calibration).contains
        for alpha in ALPHAS
    ]
    for larger, smaller in pairwise(sets):
        assert (larger | ~smaller).all()
    assert sets[0].sum() > sets[-1].sum()


@of_both_kinds
def test_alpha_towards_zero_gives_the_root(known, kind):
    result, truth = known
    sets = result.label_sets(1e-9, kind=kind, calibration=calibrate(result, truth))
    assert set(sets.sets) == {("root",)}
    assert (sets.size == result.taxonomy.n_leaves).all()
    assert np.isinf(sets.thresholds["threshold"]).all()


@of_both_kinds
def test_large_alpha_gives_the_most_probable_leaf(known, kind):
    result, truth = known
    sets = result.label_sets(0.999, kind=kind, calibration=calibrate(result, truth))
    assert (sets.size == 1).all()
    best = result.node_probabilities[:, result.taxonomy.leaves].argmax(axis=1)
    np.testing.assert_array_equal(sets.contains.argmax(axis=1), best)


@of_both_kinds
def test_the_score_is_the_smallest_threshold_that_covers(taxonomy, annotated, kind):
    """Against the definition: walk through all thresholds that occur."""
    result = annotated(taxonomy, n_cells=40, seed=5)
    rng = np.random.default_rng(2)
    truth = rng.integers(1, taxonomy.n_nodes, size=40)  # inner nodes too
    calibration = calibrate(result, truth)
    own = taxonomy.ancestor_matrix[:, truth].T
    for cell, score in enumerate(calibration.scores(kind)):
        for threshold in {0.0, score, *calibration.scores(kind)}:
            same = {f"{name}_scores": np.full(40, threshold) for name in ("node", "leaf")}
            sets = result.label_sets(0.5, kind=kind, calibration=replace(calibration, **same))
            assert sets.thresholds["threshold"].tolist() == [threshold]
            assert (sets.contains[cell] | ~own[cell]).all() == (score <= threshold)


def test_node_sets_are_all_types_under_one_ancestor_of_the_guess(known):
    result, truth = known
    sets = result.label_sets(0.2, calibration=calibrate(result, truth))
    nodes = [result.taxonomy.resolve(name) for (name,) in sets.sets]
    np.testing.assert_array_equal(sets.contains, result.taxonomy.ancestor_matrix[:, nodes].T)


def test_leaf_sets_are_compressed_to_whole_subtrees(two_levels):
    p = np.array([[1, 0.6, 0.4, 0.3, 0.2, 0.1, 0.35, 0.05]])
    result = Annotation(taxonomy=two_levels, obs_names=["a"], node_probabilities=p)
    expected = {
        0.0: ("B > naive",),
        0.4: ("T > CD4", "B > naive"),
        0.8: ("T > CD4", "T > CD8", "B > naive"),
        0.9: ("T", "B > naive"),
        1.0: ("root",),
    }
    for score, names in expected.items():
        calibration = Calibration(
            taxonomy=two_levels,
            true_nodes=np.full(9, 3),
            predicted=np.full(9, 3),
            node_scores=np.full(9, score),
            leaf_scores=np.full(9, score),
        )
        sets = result.label_sets(0.2, kind="leaves", calibration=calibration)
        assert sets.sets == (names,)
        assert sets.size.iloc[0] == sets.contains.sum()
    assert sets.to_frame().loc["a"].tolist() == ["root", 5]


def test_a_chain_of_single_children_is_named_by_its_leaf(ragged):
    p = np.zeros((1, ragged.n_nodes))
    leaf = ragged.resolve("MAIT > MAIT")
    p[0, [0, *ragged.ancestors(leaf)]] = 1.0
    result = Annotation(taxonomy=ragged, obs_names=["a"], node_probabilities=p)
    calibration = calibrate(result, np.array([ragged.resolve("MAIT")]))
    assert calibration.node_scores.tolist() == [0.0]
    sets = result.label_sets(0.5, calibration=calibration)
    assert sets.sets == (("MAIT > MAIT",),)


def test_the_threshold_has_the_rank_of_the_formula():
    for n, alpha, rank in [(19, 0.1, 18), (9, 0.1, 9), (8, 0.1, None), (99, 0.05, 95)]:
        scores = np.random.default_rng(0).permutation(np.arange(1, n + 1) / n)
        expected = np.inf if rank is None else rank / n
        assert conformal_threshold(scores, alpha) == expected


def test_small_groups_share_one_threshold(known):
    result, truth = known
    few = slice(0, 60)
    calibration = calibrate(part(result, few), truth[few])
    sets = result.label_sets(0.05, groups=1, calibration=calibration)
    table = sets.thresholds
    assert table.index[-1] == "all others"
    assert table["n_cells"].sum() == 60
    assert (table["n_cells"].iloc[:-1] >= 19).all()
    lone = result.label_sets(0.001, groups=1, calibration=calibration)
    assert lone.thresholds.index.tolist() == ["all others"]


def test_a_calibration_survives_plain_types(known):
    result, truth = known
    calibration = calibrate(result, truth, source="cells of a friend")
    again = Calibration.from_dict(calibration.to_dict(), result.taxonomy)
    assert repr(again) == repr(calibration)
    first, second = (result.label_sets(0.1, calibration=c) for c in (calibration, again))
    np.testing.assert_array_equal(first.contains, second.contains)


def test_unlabelled_cells_count_neither_for_scores_nor_for_coverage(known):
    result, truth = known
    half = np.where(np.arange(len(truth)) % 2, truth, 0)
    calibration = calibrate(result, half)
    assert len(calibration) == len(truth) // 2
    sets = result.label_sets(0.1, calibration=calibration)
    assert sets.coverage(half) == sets.holds(truth)[half > 0].mean()
    assert np.isnan(sets.coverage(np.zeros(len(truth), int)))


def test_no_cells_give_empty_sets(two_levels, annotated, known):
    full = annotated(two_levels, n_cells=50)
    calibration = calibrate(full, full.leaf_nodes)
    sets = annotated(two_levels, n_cells=0).label_sets(calibration=calibration)
    assert sets.sets == ()
    assert sets.to_frame().shape == (0, 2)
    assert "0 cells" in repr(sets)


WRONG = [
    ({"alpha": 0.0}, "between 0 and 1"),
    ({"alpha": 1.0}, "between 0 and 1"),
    ({"kind": "types"}, "one of 'nodes', 'leaves', got"),
    ({"groups": "organ"}, "level must be one of .* got 'organ'"),
    ({"groups": "level9"}, "level must be one of"),
    ({"groups": 0}, "root"),
    ({"calibration": None}, "no calibration.*calibrate"),
    ({"calibration": 3}, "calibration must be a result of hdi.annotation.calibrate, got 3"),
]


def test_bad_arguments_are_refused(two_levels, annotated):
    result = annotated(two_levels)
    calibration = calibrate(result, result.leaf_nodes)
    for arguments, says in WRONG:
        with pytest.raises(ValueError, match=says):
            result.label_sets(**({"calibration": calibration} | arguments))


def test_a_calibration_of_another_tree_is_refused(two_levels, ragged, annotated):
    foreign = annotated(ragged)
    calibration = calibrate(foreign, foreign.leaf_nodes)
    with pytest.raises(ValueError, match=r"another taxonomy .*Create one"):
        annotated(two_levels).label_sets(calibration=calibration)


def test_true_nodes_that_do_not_fit_are_refused(two_levels, annotated):
    for nodes in [
        np.ones(3, int),
        np.full(60, 99),
        np.full(60, -1),
        np.full(60, 1.5),
        np.full(60, "T"),
    ]:
        with pytest.raises(ValueError, match=r"node indices.*taxonomy.encode"):
            calibrate(annotated(two_levels), nodes)


def test_true_nodes_of_other_cells_are_refused(known):
    annotation, nodes = known
    named = pd.Series(np.asarray(nodes), index=annotation.obs_names)
    sets = annotation.label_sets(calibration=calibrate(annotation, named))
    for score in (lambda x: calibrate(annotation, x), sets.coverage):
        with pytest.raises(ValueError, match="true_nodes has an index of other cells"):
            score(named[::-1])


def test_calibrating_without_labels_is_refused(two_levels, annotated):
    with pytest.raises(ValueError, match="No cell has a known label"):
        calibrate(annotated(two_levels), np.zeros(60, int))


def test_labels_instead_of_nodes_raise_in_coverage(known):
    sets = known[0].label_sets(calibration=calibrate(*known))
    with pytest.raises(ValueError, match=r"taxonomy\.encode"):
        sets.coverage(["B"] * len(sets))
