"""Consensus compared with weighted means and scikit-learn's kappa."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

import hdeepinsight as hdi


@pytest.fixture
def other(annotation, tree):
    """A second annotation of the same cells with another order of classes."""
    node = annotation.node_probabilities.copy()
    node[:, tree.leaves] = np.roll(node[:, tree.leaves], 1, axis=1)
    for parent in tree.inner_nodes[::-1]:
        children = np.flatnonzero(tree.parent == parent)
        node[:, parent] = node[:, children].sum(axis=1)
    return hdi.Annotation(taxonomy=tree, obs_names=annotation.obs_names, node_probabilities=node)


def test_one_annotation_is_itself(annotation):
    result = hdi.tl.consensus(annotation)
    np.testing.assert_allclose(result.node_probabilities, annotation.node_probabilities, atol=1e-12)
    assert (result.agreement["lineage"] == 1).all()
    assert (result.agreement["type"].dropna() == 1).all()
    nk = annotation.leaf_nodes == annotation.taxonomy.resolve("NK")
    assert (result.agreement["type"].isna() == nk).all()
    assert result.pairs.empty


def test_full_annotations_are_averaged_with_their_weights(annotation, other):
    result = hdi.tl.consensus(annotation, other, weights=[3, 1])
    expected = 0.75 * annotation.node_probabilities + 0.25 * other.node_probabilities
    np.testing.assert_allclose(result.node_probabilities, expected, atol=1e-12)
    only = hdi.tl.consensus(annotation, other, weights=[0, 2])
    np.testing.assert_allclose(only.node_probabilities, other.node_probabilities, atol=1e-12)


def test_order_of_annotations_and_of_cells_is_immaterial(annotation, other):
    table = other.probabilities("type").sample(frac=1, random_state=0)
    one = hdi.tl.consensus(annotation, table)
    two = hdi.tl.consensus(other, annotation)
    assert one.obs_names.equals(annotation.obs_names)
    np.testing.assert_allclose(one.node_probabilities, two.node_probabilities, atol=1e-12)


def test_an_annotation_at_the_parent_does_not_affect_its_children(tree):
    cells = ["a", "b", "c"]
    deep = pd.Series(["CD8", "CD4", "memory"], index=cells, name="deep")
    coarse = pd.Series(["T", "B", None], index=cells, name="coarse")
    result = hdi.tl.consensus(deep, coarse, taxonomy=tree)
    node = dict(zip(cells, result.node_probabilities, strict=True))
    assert node["a"][tree.resolve("CD8")] == 1
    assert node["b"][tree.resolve("T")] == 0.5
    assert node["c"][tree.resolve("memory")] == 1
    assert result.labels["stop_label"].tolist() == ["CD8", "Unknown", "memory"]
    assert result.agreement["lineage"].tolist() == [1, 0.5, 1]
    assert result.agreement["type"].tolist()[::2] == [1, 1]


def test_equal_halves_are_no_majority(tree):
    both = pd.Series(["T"], index=["a"])
    result = hdi.tl.consensus(both, both, taxonomy=tree)
    assert result.labels["stop_label"].tolist() == ["T"]


def test_pairwise_kappa_is_scikit_learn_s(annotation, other, tree):
    table = tree.node_at_level
    one, two = (table[each.leaf_nodes] for each in (annotation, other))
    names = [tree.label(int(node)) for node in one[:, 0]]
    third = pd.Series(names, index=annotation.obs_names)
    result = hdi.tl.consensus(annotation, other, third, names=["one", "two", "three"])
    for depth, level in enumerate(("lineage", "type")):
        row = result.pairs.loc[("one", "two", level)]
        both = (one[:, depth] >= 0) & (two[:, depth] >= 0)
        codes = [each[both, depth] for each in (one, two)]
        assert row["n_cells"] == both.sum()
        assert row["kappa"] == pytest.approx(cohen_kappa_score(*codes))
        assert row["agreement"] == pytest.approx((codes[0] == codes[1]).mean())
    same = result.pairs.loc[("one", "three", "lineage")]
    assert (same["agreement"], same["n_cells"]) == (1, 290)
    # The third one is above level 2, except for NK, which is a leaf at level 1.
    assert result.pairs.loc[("one", "three", "type"), "n_cells"] == 0
    assert np.isnan(result.pairs.loc[("one", "three", "type"), "kappa"])


def test_tables_of_all_nodes_and_of_sigmoid_scores_are_read(annotation, tree):
    expected = annotation.node_probabilities
    for table in (annotation.probabilities(), 0.3 * annotation.probabilities("type")):
        found = hdi.tl.consensus(table, taxonomy=tree).node_probabilities
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_result_is_written_on_request(cells, annotation, other):
    hdi.tl.consensus(annotation, other).to_adata(cells)
    assert {"consensus_type", "consensus_agreement_type"} <= set(cells.obs)


NAMES = pd.Index(["a", "b"])


@pytest.mark.parametrize(
    ("sources", "settings", "error", "message"),
    [
        ([], {}, ValueError, "at least one annotation"),
        ([["CD4", "NK"]], {}, TypeError, "got a list"),
        ([pd.Series(["CD4", "X"], NAMES)], {}, ValueError, "'X'"),
        ([pd.Series(["CD4", "NK"], NAMES)], {"taxonomy": None}, ValueError, "belong to a taxonomy"),
        ([pd.Series(["NK"] * 2, NAMES), pd.Series(["NK"], ["a"])], {}, ValueError, "and 1 cells"),
        (
            [pd.Series(["NK"] * 2, NAMES)],
            {"weights": [1, 2]},
            ValueError,
            "weights must be 1 numbers",
        ),
        ([pd.Series(["NK"] * 2, NAMES)], {"weights": [0]}, ValueError, "not all 0"),
        ([pd.Series(["NK"] * 2, NAMES)], {"names": ["x", "y"]}, ValueError, "names"),
        ([pd.DataFrame({"NK": [-1.0, 2]}, NAMES)], {}, ValueError, "from -1 to 2"),
    ],
)
def test_bad_input_is_named(tree, sources, settings, error, message):
    with pytest.raises(error, match=message):
        hdi.tl.consensus(*sources, **{"taxonomy": tree, **settings})


def test_the_table_has_the_columns_of_popv(tree):
    names = ["a", "b", "c", "d"]
    one = pd.Series(["CD4", "CD4", "naive", None], index=names, name="one")
    two = pd.Series(["CD4", "CD8", "NK", None], index=names, name="two")
    three = pd.Series(["T", "T", "B", None], index=names, name="three")
    table = hdi.tl.consensus(one, two, three, taxonomy=tree).to_table()
    assert table.columns.tolist() == [
        *(f"popv_{name}_prediction" for name in ("one", "two", "three")),
        "popv_majority_vote_prediction",
        "popv_majority_vote_score",
        "popv_prediction",
        "popv_prediction_score",
    ]
    assert table["popv_two_prediction"].tolist() == ["CD4", "CD8", "NK", "unknown"]
    # The second and third have no majority, and get the first label of the taxonomy.
    assert table["popv_majority_vote_prediction"].tolist() == ["CD4", "T", "B", "unknown"]
    assert table["popv_majority_vote_score"].tolist() == [2, 1, 1, 0]
    assert table["popv_prediction"].tolist() == ["CD4", "T", "naive", "unknown"]
    # Under "T" all three agree; the one at "B" is ignored for "naive".
    assert table["popv_prediction_score"].tolist() == [2, 3, 1, 0]
    share = table["popv_prediction_score"] / 3
    back = hdi.Annotation.from_labels(table["popv_prediction"], tree, confidence=share)
    assert back.labels["stop_label"].tolist() == ["CD4", "T", "Unknown", "Unknown"]


def test_words_for_no_label_are_ignored(tree):
    one = pd.Series(["CD4", "NK"], index=["a", "b"], name="one")
    other = pd.Series(["unknown", "Heterogeneous"], index=["a", "b"], name="other")
    result = hdi.tl.consensus(one, other, taxonomy=tree)
    assert result.labels["stop_label"].tolist() == ["CD4", "NK"]


def test_invalid_thresholds_are_refused(annotation):
    with pytest.raises(ValueError, match=r"threshold must be .* or None .*got 0\.3"):
        hdi.tl.consensus(annotation, threshold=0.3)
