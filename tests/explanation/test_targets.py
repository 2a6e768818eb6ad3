"""Targets as weights of edge scores."""

import numpy as np
import pytest
import torch

from hdeepinsight.explanation import Targets
from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra


@pytest.fixture
def tree():
    return Taxonomy.from_nested({"T": {"CD4": ["naive", "Treg"], "CD8": []}, "B": ["B cell"]})


def output(tree, targets, logits):
    scores = TreeAlgebra(tree).conditional_log_probs(logits)
    return scores @ torch.from_numpy(targets.weights).T


def test_targets_are_the_log_probabilities_that_they_name(tree):
    logits = torch.randn(3, tree.n_edges)
    joint = TreeAlgebra(tree)(logits)
    names = ["T", "CD4", "Treg", "B"]
    nodes = [tree.resolve(name) for name in names]
    found = output(tree, Targets.of(tree, names, kind="joint"), logits)
    torch.testing.assert_close(found, joint[:, nodes])
    found = output(tree, Targets.of(tree, names), logits)
    parents = tree.parent[nodes].tolist()
    torch.testing.assert_close(found, joint[:, nodes] - joint[:, parents])


@pytest.mark.parametrize("target", ["conditional", "joint"])
def test_a_contrast_is_the_log_odds_of_any_two_nodes(tree, target):
    logits = torch.randn(3, tree.n_edges)
    joint = TreeAlgebra(tree)(logits)
    for one, other in (("Treg", "naive"), ("Treg", "B"), ("CD8", "naive"), ("Treg", "T")):
        found = output(tree, Targets.of(tree, one, against=other, kind=target), logits)
        expected = joint[:, tree.resolve(one)] - joint[:, tree.resolve(other)]
        torch.testing.assert_close(found[:, 0], expected)


def test_siblings_differ_by_their_logits(tree):
    logits = torch.randn(3, tree.n_edges)
    found = output(tree, Targets.of(tree, "Treg", against="naive"), logits)
    expected = logits[:, tree.resolve("Treg") - 1] - logits[:, tree.resolve("naive") - 1]
    torch.testing.assert_close(found[:, 0], expected)


def test_an_only_child_is_explained_at_its_closest_ancestor_with_siblings(tree):
    np.testing.assert_array_equal(Targets.of(tree, "B cell").weights, Targets.of(tree, "B").weights)


def test_a_logit_is_the_score_of_one_edge(tree):
    weights = Targets.of(tree, "Treg", kind="logit").weights
    assert weights[0].nonzero()[0].tolist() == [tree.resolve("Treg") - 1]


def test_targets_of_a_level_include_leaves_above_it(tree):
    assert Targets.of(tree, level=1).names == ("T", "B")
    assert Targets.of(tree, level=2).names == ("T > CD4", "T > CD8", "B > B cell")
    leaves = Targets.of(tree)
    assert leaves.nodes.tolist() == tree.leaves.tolist()
    np.testing.assert_array_equal(leaves.is_member, np.eye(tree.n_leaves, dtype=bool))


def test_the_root_is_no_level_to_explain(tree):
    with pytest.raises(ValueError, match=r"Level 0 is the root.*from 1 to"):
        Targets.of(tree, level=0)


def test_invalid_targets_are_refused(tree):
    for nodes, options, words in [
        ("root", {}, "root has probability 1"),
        ([], {}, "nodes is empty"),
        ("Trge", {}, "Treg"),
        ("Treg", {"against": "Treg"}, "against itself"),
        ("Treg", {"against": "B", "kind": "logit"}, "log-odds"),
        ("Treg", {"kind": "proba"}, "'conditional', 'joint', 'logit'"),
    ]:
        with pytest.raises(ValueError, match=words):
            Targets.of(tree, nodes, **options)
