"""The adaptive hierarchical focal loss against NumPy, its identities and its weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hdeepinsight.nn import (
    AdaptiveHierarchicalFocalLoss,
    inverse_frequency_weights,
    project_with_floor,
)
from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra


def numpy_loss(taxonomy, logits, nodes, *, gamma, reduction, weights=None):
    """Per-level losses from the written method: no torch, no tables of ours but parent and depth.

    At each level a cell competes among the siblings of its true node, given its true parent. The
    default averages over cells; the published form sums the means of the parents in the batch.
    """
    weights = np.ones(taxonomy.n_edges) if weights is None else weights
    parent, depth = np.asarray(taxonomy.parent), np.asarray(taxonomy.depth)
    losses = []
    for level in range(1, taxonomy.max_depth + 1):
        of_parent = {}
        for cell, node in enumerate(nodes):
            while depth[node] > level:
                node = parent[node]
            siblings = np.flatnonzero(parent == parent[node])
            if depth[node] < level or len(siblings) < 2:
                continue
            z = logits[cell, siblings - 1].astype(np.float64)
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            p_true = p[list(siblings).index(node)]
            focal = weights[node - 1] * (1 - p_true) ** gamma * -np.log(p_true)
            of_parent.setdefault(int(parent[node]), []).append(focal)
        if not of_parent:
            losses.append(0.0)
        elif reduction == "published":
            losses.append(sum(np.mean(group) for group in of_parent.values()))
        else:
            losses.append(np.mean(np.concatenate(list(of_parent.values()))))
    return np.array(losses)


def per_level(tree, logits, nodes, node_weights=None, **kwargs):
    loss = AdaptiveHierarchicalFocalLoss(tree, **kwargs)
    if node_weights is not None:
        loss.node_weights = node_weights
    return loss.per_level(tree.conditional_log_probs(logits), nodes)


def random_batch(taxonomy, seed, n_cells=24, leaves_only=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, size=(n_cells, taxonomy.n_edges))
    choices = taxonomy.leaves if leaves_only else np.arange(taxonomy.n_nodes)
    return logits, rng.choice(choices, n_cells)


def test_values_equal_an_independent_implementation(taxonomy, tree):
    for gamma in [0.0, 0.5, 2.0]:
        for reduction in ["cell", "published"]:
            for seed in range(5):
                logits, nodes = random_batch(taxonomy, seed)
                weights = np.random.default_rng(seed).uniform(0.5, 2.0, taxonomy.n_edges)
                options = {"gamma": gamma, "reduction": reduction}
                expected = numpy_loss(taxonomy, logits, nodes, weights=weights, **options)
                got = per_level(
                    tree,
                    torch.from_numpy(logits),
                    torch.from_numpy(nodes),
                    node_weights=torch.from_numpy(weights),
                    **options,
                )
                np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-12)


def test_published_loss_of_the_immune_taxonomy_equals_numpy():
    taxonomy = Taxonomy.immune()
    tree = TreeAlgebra(taxonomy)
    logits, nodes = random_batch(taxonomy, 0, n_cells=256, leaves_only=True)
    expected = numpy_loss(taxonomy, logits, nodes, gamma=2.0, reduction="published")
    loss = AdaptiveHierarchicalFocalLoss(tree, reduction="published")
    given = tree.conditional_log_probs(torch.from_numpy(logits)), torch.from_numpy(nodes)
    np.testing.assert_allclose(loss.per_level(*given), expected, rtol=1e-9)
    assert loss(*given).item() == pytest.approx(0.5 * expected.sum(), rel=1e-6)
    # A sum over some fifteen parents: the lower level outweighs the upper one.
    assert expected[1] > 5 * expected[0]


def test_total_is_the_weighted_sum_over_levels(ragged):
    tree = TreeAlgebra(ragged)
    logits, nodes = (torch.from_numpy(x) for x in random_batch(ragged, 1))
    weights = torch.tensor([0.2, 0.3, 0.5])
    loss = AdaptiveHierarchicalFocalLoss(tree, weighting=weights.tolist())
    conditional = tree.conditional_log_probs(logits)
    expected = (weights * loss.per_level(conditional, nodes)).sum()
    torch.testing.assert_close(loss(conditional, nodes), expected)


def test_plain_cross_entropy_of_the_leaves(two_levels):
    tree = TreeAlgebra(two_levels)
    logits, nodes = (torch.from_numpy(x) for x in random_batch(two_levels, 2, leaves_only=True))
    expected = -tree(logits)[torch.arange(len(nodes)), nodes].mean()
    total = per_level(tree, logits, nodes, gamma=0.0).sum()
    torch.testing.assert_close(total, expected)


def test_gamma_goes_to_zero_continuously(tree, taxonomy):
    logits, nodes = (torch.from_numpy(x) for x in random_batch(taxonomy, 3))
    limit = per_level(tree, logits, nodes, gamma=0.0)
    gaps = [
        (per_level(tree, logits, nodes, gamma=gamma) - limit).abs().max().item()
        for gamma in (1e-2, 1e-4, 1e-6)
    ]
    assert gaps[0] < 0.05
    assert gaps[1] == pytest.approx(gaps[0] / 100, rel=0.1)
    assert gaps[2] == pytest.approx(gaps[0] / 1e4, rel=0.1)


def test_reductions_agree_where_each_level_has_one_parent(ragged):
    tree = TreeAlgebra(ragged)
    names = ["naive", "Th1", "Th2"]
    nodes = torch.tensor([ragged.resolve(f"T > CD4 > {name}") for name in names * 4])
    logits = torch.randn(12, ragged.n_edges, dtype=torch.float64)
    by_cell = per_level(tree, logits, nodes, reduction="cell")
    torch.testing.assert_close(per_level(tree, logits, nodes, reduction="published"), by_cell)
    assert (by_cell > 0).all()


def test_node_weights_stand_outside_the_focal_factor(ragged):
    tree = TreeAlgebra(ragged)
    logits, nodes = (torch.from_numpy(x) for x in random_batch(ragged, 4))
    tripled = 3 * torch.ones(ragged.n_edges)
    plain = per_level(tree, logits, nodes)
    torch.testing.assert_close(per_level(tree, logits, nodes, node_weights=tripled), 3 * plain)


@pytest.mark.parametrize("reduction", ["cell", "published"])
def test_unlabelled_cells_have_no_gradient(ragged, reduction):
    tree = TreeAlgebra(ragged)
    logits, nodes = (torch.from_numpy(x) for x in random_batch(ragged, 5))
    nodes[::2] = 0
    logits.requires_grad_()
    per_level(tree, logits, nodes, reduction=reduction).sum().backward()
    assert torch.equal(logits.grad[::2], torch.zeros_like(logits.grad[::2]))
    assert logits.grad[1::2].abs().sum() > 0
    alone = per_level(tree, logits[1::2], nodes[1::2], reduction=reduction)
    torch.testing.assert_close(per_level(tree, logits, nodes, reduction=reduction), alone)


def test_a_batch_without_labels_costs_nothing(tree):
    for reduction in ["cell", "published"]:
        logits = torch.randn(3, tree.taxonomy.n_edges, requires_grad=True)
        losses = per_level(tree, logits, torch.zeros(3, dtype=torch.int64), reduction=reduction)
        losses.sum().backward()
        assert torch.equal(losses, torch.zeros(tree.taxonomy.max_depth))
        assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_label_at_an_inner_node_teaches_the_levels_above_alone(ragged):
    tree = TreeAlgebra(ragged)
    logits = torch.randn(1, ragged.n_edges, requires_grad=True)
    losses = per_level(tree, logits, torch.tensor([ragged.resolve("T > CD4")]))
    losses.sum().backward()
    assert (losses > 0).tolist() == [True, True, False]
    moved = {ragged.path(int(edge) + 1) for edge in logits.grad[0].nonzero().ravel()}
    assert moved == {("T",), ("MAIT",), ("B",), ("NK",), ("T", "CD4"), ("T", "CD8"), ("T", "gd")}


def test_a_node_without_siblings_is_ignored(ragged):
    """Its loss is 0, and must not reduce the mean of its level."""
    tree = TreeAlgebra(ragged)
    nodes = torch.tensor([ragged.resolve(n) for n in ("B > naive", "MAIT > MAIT")])
    logits = torch.randn(2, ragged.n_edges)
    both, alone = per_level(tree, logits, nodes), per_level(tree, logits[:1], nodes[:1])
    torch.testing.assert_close(both[1], alone[1])


def test_extreme_logits_stay_finite(tree, taxonomy):
    for gamma in [0.0, 0.3, 1.0, 2.0]:
        for scale in [50.0, 1e4, 1e30]:
            values, nodes = random_batch(taxonomy, 6, n_cells=60)
            logits = torch.tensor(scale * np.sign(values), dtype=torch.float32, requires_grad=True)
            losses = per_level(tree, logits, torch.from_numpy(nodes), gamma=gamma)
            losses.sum().backward()
            assert torch.isfinite(losses).all()
            assert torch.isfinite(logits.grad).all()
            assert losses[0] > scale / 10  # wrong and certain is dear


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_and_right_costs_nothing(two_levels, gamma):
    tree = TreeAlgebra(two_levels)
    leaf = two_levels.resolve("CD8")
    logits = torch.full((1, two_levels.n_edges), -100.0)
    logits[0, two_levels.ancestors(leaf) - 1] = 100.0
    logits.requires_grad_()
    losses = per_level(tree, logits, torch.tensor([leaf]), gamma=gamma)
    losses.sum().backward()
    assert losses.abs().max().item() < 1e-12
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().max().item() < 1e-3


@pytest.mark.parametrize("reduction", ["cell", "published"])
def test_gradient_equals_finite_differences(ragged, reduction):
    tree = TreeAlgebra(ragged)
    logits, nodes = (torch.from_numpy(x) for x in random_batch(ragged, 7, n_cells=5))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: per_level(tree, z, nodes, reduction=reduction), (logits,)
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), gamma=st.floats(0.0, 4.0))
def test_order_of_the_cells_does_not_matter(seed, gamma):
    taxonomy = Taxonomy.from_nested({"T": {"CD4": ["a", "b"], "CD8": []}, "B": ["c", "d"]})
    tree = TreeAlgebra(taxonomy)
    logits, nodes = (torch.from_numpy(x) for x in random_batch(taxonomy, seed))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(nodes)))
    for reduction in ("cell", "published"):
        options = {"gamma": gamma, "reduction": reduction}
        torch.testing.assert_close(
            per_level(tree, logits[order], nodes[order], **options),
            per_level(tree, logits, nodes, **options),
        )


def test_an_unknown_reduction_is_refused(tree):
    with pytest.raises(ValueError, match="one of 'cell', 'published', got 'mean'"):
        AdaptiveHierarchicalFocalLoss(tree, reduction="mean")


weights_of_levels = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=8).filter(
    lambda values: sum(values) > 1e-3
)


def as_shares(values):
    return torch.tensor(values, dtype=torch.float64) / sum(values)


@given(share=st.floats(0.0, 1.0))
def test_two_levels_are_clipped_as_published(share):
    pair = torch.tensor([share, 1 - share], dtype=torch.float64)
    torch.testing.assert_close(project_with_floor(pair), pair.clamp(0.1, 0.9))


@given(values=weights_of_levels)
def test_projection_sums_to_one_above_the_floor(values):
    projected = project_with_floor(as_shares(values))
    assert projected.sum().item() == pytest.approx(1.0, abs=1e-9)
    assert projected.min().item() >= 0.2 / len(values) - 1e-12
    torch.testing.assert_close(project_with_floor(projected), projected)


@given(values=weights_of_levels)
def test_projection_keeps_the_order_and_what_is_allowed(values):
    weights = as_shares(values)
    projected = project_with_floor(weights)
    order = weights.argsort()
    assert (projected[order].diff() >= -1e-12).all()
    if weights.min() >= 0.2 / len(values):
        torch.testing.assert_close(projected, weights)


def test_projection_is_the_nearest_allowed_point():
    for seed in range(3):
        weights = np.random.default_rng(seed).dirichlet([0.3] * 4)
        nearest = minimize(
            lambda a, weights=weights: ((a - weights) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0.05, 1)] * 4,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            tol=1e-12,
        ).x
        np.testing.assert_allclose(
            project_with_floor(torch.from_numpy(weights)), nearest, atol=1e-5
        )


def test_another_floor_may_be_given():
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(
        project_with_floor(weights, floor=0.4), torch.tensor([0.7, 0.1, 0.1, 0.1])
    )
    torch.testing.assert_close(project_with_floor(weights, floor=1.0), torch.full((4,), 0.25))


def test_level_weights_follow_the_losses_step_by_step(two_levels):
    loss = AdaptiveHierarchicalFocalLoss(TreeAlgebra(two_levels))
    assert loss.level_weights.tolist() == [0.5, 0.5]
    a = 0.5
    for upper, lower in [(1.0, 3.0), (0.2, 1.8), (3.0, 1.0)] * 10 + [(0.0, 1.0)] * 30:
        loss.update_level_weights(torch.tensor([upper, lower]))
        a = min(max(0.9 * a + 0.1 * upper / (upper + lower), 0.1), 0.9)
        assert loss.level_weights.tolist() == pytest.approx([a, 1 - a], abs=1e-6)
    assert a == 0.1  # the floor was reached


@settings(max_examples=20, deadline=None)
@given(losses=st.lists(st.floats(0.0, 100.0), min_size=3, max_size=3))
def test_level_weights_stay_shares(losses):
    loss = AdaptiveHierarchicalFocalLoss(_three_levels())
    for _ in range(5):
        loss.update_level_weights(torch.tensor(losses))
    assert loss.level_weights.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert loss.level_weights.min().item() >= 0.2 / 3 - 1e-6


def _three_levels():
    from hdeepinsight.taxonomy import Taxonomy

    return TreeAlgebra(Taxonomy.from_nested({"T": {"CD4": ["a", "b"], "CD8": []}, "B": []}))


def test_uninformative_losses_keep_the_weights():
    for losses in [[float("nan"), 1.0, 1.0], [float("inf"), 1.0, 1.0], [0.0, 0.0, 0.0]]:
        loss = AdaptiveHierarchicalFocalLoss(_three_levels())
        loss.update_level_weights(torch.tensor([1.0, 2.0, 5.0]))
        before = loss.level_weights.clone()
        loss.update_level_weights(torch.tensor(losses))
        assert torch.equal(loss.level_weights, before)
        loss.update_level_weights(torch.tensor([9.0, 1.0, 1.0]))
        assert not torch.equal(loss.level_weights, before)


def test_given_weights_stay_fixed(two_levels):
    loss = AdaptiveHierarchicalFocalLoss(TreeAlgebra(two_levels), weighting=[0.3, 0.7])
    loss.update_level_weights(torch.tensor([5.0, 1.0]))
    assert torch.equal(loss.level_weights, torch.tensor([0.3, 0.7]))


def test_a_resumed_run_continues_with_its_weights(two_levels):
    loss = AdaptiveHierarchicalFocalLoss(TreeAlgebra(two_levels))
    loss.update_level_weights(torch.tensor([5.0, 1.0]))
    other = AdaptiveHierarchicalFocalLoss(TreeAlgebra(two_levels))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.level_weights, loss.level_weights)
    assert set(loss.state_dict()) == {"level_weights", "node_weights"}


def test_node_weights_average_one_over_the_cells_of_a_group(taxonomy, tree):
    for exponent in [0.0, 0.3, 0.5, 1.0]:
        nodes = np.random.default_rng(0).choice(taxonomy.n_nodes, 500)
        nodes = np.concatenate([nodes, np.full(300, taxonomy.leaves[0])])
        weights = inverse_frequency_weights(tree, torch.from_numpy(nodes), exponent).numpy()
        table = taxonomy.node_at_level
        n_cells = np.array([(table[nodes] == node).sum() for node in range(taxonomy.n_nodes)])
        for group in taxonomy.groups:
            own = n_cells[group]
            assert (own * weights[group - 1]).sum() == pytest.approx(own.sum(), rel=1e-5)
            ratio = (own / own[0]) ** -exponent
            np.testing.assert_allclose(weights[group - 1] / weights[group[0] - 1], ratio, rtol=1e-5)


def test_full_exponent_gives_every_sibling_the_same_total(two_levels):
    tree = TreeAlgebra(two_levels)
    nodes = torch.tensor([two_levels.resolve(n) for n in ["CD4"] * 90 + ["CD8"] * 9 + ["gd"]])
    weights = inverse_frequency_weights(tree, nodes, 1.0)
    below_t = weights[torch.tensor([two_levels.resolve(n) - 1 for n in ("CD4", "CD8", "gd")])]
    torch.testing.assert_close(below_t * torch.tensor([90.0, 9.0, 1.0]), torch.full((3,), 100 / 3))


def test_nodes_without_cells_and_single_children_weigh_one(ragged):
    tree = TreeAlgebra(ragged)
    nodes = torch.tensor([ragged.resolve("MAIT > MAIT")] * 7 + [0] * 5)
    weights = inverse_frequency_weights(tree, nodes, 0.5)
    torch.testing.assert_close(weights, torch.ones(ragged.n_edges))
    nothing = inverse_frequency_weights(tree, torch.zeros(0, dtype=torch.int64), 0.5)
    assert torch.equal(nothing, torch.ones(ragged.n_edges))
