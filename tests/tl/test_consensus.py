"""Consensus compared with weighted means."""

import numpy as np
import pandas as pd
import pytest

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


def test_tables_of_all_nodes_and_of_sigmoid_scores_are_read(annotation, tree):
    expected = annotation.node_probabilities
    for table in (annotation.probabilities(), 0.3 * annotation.probabilities("type")):
        found = hdi.tl.consensus(table, taxonomy=tree).node_probabilities
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_result_is_written_on_request(cells, annotation, other):
    hdi.tl.consensus(annotation, other).to_adata(cells)
    assert {"consensus_type", "consensus_agreement_type"} <= set(cells.obs)


NAMES = pd.Index(["a", "b"])


def test_bad_input_is_named(tree):
    for sources, settings, error, message in [
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
        ([pd.DataFrame({"NK": [-1.0, 2]}, NAMES)], {}, ValueError, "from -1 to 2"),
    ]:
        with pytest.raises(error, match=message):
            hdi.tl.consensus(*sources, **{"taxonomy": tree, **settings})


def test_words_for_no_label_are_ignored(tree):
    one = pd.Series(["CD4", "NK"], index=["a", "b"], name="one")
    other = pd.Series(["unknown", "Heterogeneous"], index=["a", "b"], name="other")
    result = hdi.tl.consensus(one, other, taxonomy=tree)
    assert result.labels["stop_label"].tolist() == ["CD4", "NK"]


def test_invalid_thresholds_are_refused(annotation):
    with pytest.raises(ValueError, match=r"threshold must be .* got 0\.3.*threshold=None"):
        hdi.tl.consensus(annotation, threshold=0.3)
