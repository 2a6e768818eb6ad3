"""Log-probabilities on trees."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra

SEEDS = range(2)


def naive_node_log_probs(tree, logits):
    """Float64, node by node, group by group."""
    conditional = np.zeros((len(logits), tree.n_nodes))
    for group in tree.groups:
        conditional[:, group] = log_softmax(logits[:, group - 1].astype(np.float64), axis=1)
    total = np.zeros_like(conditional)
    for node in range(1, tree.n_nodes):
        total[:, node] = total[:, tree.parent[node]] + conditional[:, node]
    return conditional[:, 1:], total


@pytest.fixture(params=SEEDS)
def tree(request, random_tree):
    return random_tree(request.param)


def test_children_sum_to_their_parent(tree):
    for scale in [1.0, 30.0, 1e4]:
        algebra = TreeAlgebra(tree)
        logits = scale * (2 * torch.rand(64, tree.n_edges) - 1)
        probability = algebra(logits).exp()
        assert probability.dtype == torch.float32
        for group, parent in zip(tree.groups, tree.inner_nodes, strict=True):
            total = probability[:, group.tolist()].sum(dim=1)
            torch.testing.assert_close(total, probability[:, int(parent)], rtol=0, atol=1e-6)
        leaves = probability[:, algebra.leaf_index].sum(dim=1)
        torch.testing.assert_close(leaves, torch.ones(64), rtol=0, atol=1e-6)


def test_values_equal_a_naive_loop(tree):
    algebra = TreeAlgebra(tree).double()
    logits = torch.randn(8, tree.n_edges, dtype=torch.float64)
    conditional, nodes = naive_node_log_probs(tree, logits.numpy())
    got = algebra.conditional_log_probs(logits)
    np.testing.assert_allclose(got.numpy(), conditional, atol=1e-12)
    np.testing.assert_allclose(algebra.node_log_probs(got).numpy(), nodes, atol=1e-12)


def test_values_are_right_at_every_depth():
    for depth in [1, 2, 3, 4, 5, 8, 9]:
        tree = Taxonomy.from_paths(
            [("a",) * level + (name,) for level in range(depth) for name in "ab"]
        )
        assert tree.max_depth == depth
        algebra = TreeAlgebra(tree)
        logits = torch.randn(3, tree.n_edges, dtype=torch.float64)
        _, nodes = naive_node_log_probs(tree, logits.numpy())
        np.testing.assert_allclose(algebra(logits).numpy(), nodes, atol=1e-12)


def test_gradients_are_finite_and_cancel_within_each_group(tree):
    for scale in [0.0, 1.0, 1e4]:
        algebra = TreeAlgebra(tree)
        logits = (scale * torch.randn(16, tree.n_edges)).requires_grad_()
        algebra(logits).mean().backward()
        assert torch.isfinite(logits.grad).all()
        for group in tree.groups:
            total = logits.grad[:, (group - 1).tolist()].sum(dim=1)
            torch.testing.assert_close(total, torch.zeros(16), rtol=0, atol=1e-6)


def test_gradient_equals_finite_differences(random_tree):
    tree = random_tree(1, n_nodes=12)
    algebra = TreeAlgebra(tree)
    logits = torch.randn(2, tree.n_edges, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(algebra, (logits,))


def test_a_constant_added_to_one_group_changes_nothing(tree):
    algebra = TreeAlgebra(tree)
    logits = torch.randn(4, tree.n_edges, dtype=torch.float64)
    for g, group in enumerate(tree.groups):
        shifted = logits.clone()
        shifted[:, (group - 1).tolist()] += 3.0 * (g + 1)
        torch.testing.assert_close(algebra(shifted), algebra(logits))


def test_permuting_siblings_permutes_the_result():
    tree = Taxonomy.from_nested({"T": ["a", "b", "c"], "B": ["d"], "NK": []})
    swapped = Taxonomy.from_nested({"NK": [], "B": ["d"], "T": ["c", "a", "b"]})
    source = [tree.resolve(path) for path in swapped.names]
    logits = torch.randn(5, tree.n_edges)
    moved = logits[:, np.asarray(source[1:]) - 1]
    torch.testing.assert_close(TreeAlgebra(swapped)(moved), TreeAlgebra(tree)(logits)[:, source])


def test_a_flat_tree_is_a_softmax():
    algebra = TreeAlgebra(Taxonomy.from_nested(["a", "b", "c", "d"]))
    logits = torch.randn(7, 4)
    torch.testing.assert_close(algebra(logits)[:, 1:], logits.log_softmax(dim=1))
    assert (algebra(logits)[:, 0] == 0).all()


def test_a_chain_has_probability_one_everywhere():
    algebra = TreeAlgebra(Taxonomy.from_paths(["a > a > a > b > c"]))
    logits = (1e4 * torch.randn(3, 5)).requires_grad_()
    result = algebra(logits)
    assert (result == 0).all()
    result.sum().backward()
    assert (logits.grad == 0).all()


def test_tables_equal_the_taxonomy(tree):
    algebra = TreeAlgebra(tree)
    assert algebra.leaf_index.tolist() == tree.leaves.tolist()
    assert algebra.edge_depth.tolist() == tree.depth[1:].tolist()
    assert algebra.group_size.tolist() == [len(group) for group in tree.groups]
    for g, group in enumerate(tree.groups):
        assert (algebra.group_of_edge[(group - 1).tolist()] == g).all()
    for node in range(tree.n_nodes):
        row = [a if (a := tree.at_level(node, k)) is not None else -1
               for k in range(1, tree.max_depth + 1)]  # fmt: skip
        assert algebra.node_at_level[node].tolist() == row


def test_the_module_has_no_state_and_no_parameters(immune):
    algebra = TreeAlgebra(immune)
    assert algebra.state_dict() == {}
    assert list(algebra.parameters()) == []
    assert all(buffer.dtype == torch.int64 for buffer in algebra.buffers())


def test_half_precision_is_raised(immune):
    algebra = TreeAlgebra(immune)
    logits = torch.randn(4, 65)
    result = algebra(logits.to(torch.bfloat16))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, algebra(logits.to(torch.bfloat16).float()))


def test_any_leading_shape_works(immune):
    algebra = TreeAlgebra(immune)
    logits = torch.randn(2, 3, 65)
    torch.testing.assert_close(algebra(logits)[1, 2], algebra(logits[1, 2]))
    assert algebra(torch.empty(0, 65)).shape == (0, 66)


@pytest.mark.gpu
def test_results_are_the_same_on_the_gpu(immune):
    algebra = TreeAlgebra(immune)
    logits = 100 * torch.randn(32, 65)
    expected = algebra(logits)
    torch.testing.assert_close(algebra.cuda()(logits.cuda()).cpu(), expected)
