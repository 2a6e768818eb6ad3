"""Temperature scaling per level."""

import pytest
import torch

from hdeepinsight.nn import fit_temperatures
from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra


def drawn(tree, n_cells, *, sharpness=1.0, spread=1.0):
    """Logits ``sharpness * z`` of cells whose leaves were drawn with the probabilities of ``z``."""
    z = spread * torch.randn(n_cells, tree.taxonomy.n_edges, dtype=torch.float64)
    leaves = tree(z)[:, tree.leaf_index].exp()
    return sharpness * z, tree.leaf_index[torch.multinomial(leaves, 1).ravel()]


def level_losses(tree, logits, nodes, temperatures):
    """Mean conditional log-loss of every level, in a plain loop."""
    taxonomy = tree.taxonomy
    conditional = tree.conditional_log_probs(logits / temperatures[tree.edge_depth - 1].double())
    losses = []
    for level in range(taxonomy.max_depth):
        of_cells = [
            -conditional[cell, node - 1].item()
            for cell, node in enumerate(taxonomy.node_at_level[nodes.numpy(), level])
            if node > 0 and len(taxonomy.children(taxonomy.parent[node])) > 1
        ]
        losses.append(sum(of_cells) / max(len(of_cells), 1))
    return losses


def test_calibrated_logits_keep_their_temperature(ragged):
    tree = TreeAlgebra(ragged)
    temperatures = fit_temperatures(tree, *drawn(tree, 20_000))
    torch.testing.assert_close(temperatures, torch.ones(3), rtol=0, atol=0.06)


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_the_sharpness_of_each_level_is_found(ragged, sharpness):
    tree = TreeAlgebra(ragged)
    z, nodes = drawn(tree, 20_000)
    # Too sharp at the first level alone.
    first = tree.edge_depth == 1
    logits = torch.where(first, sharpness * z, z)
    temperatures = fit_temperatures(tree, logits, nodes)
    expected = torch.tensor([sharpness, 1.0, 1.0])
    torch.testing.assert_close(temperatures, expected, rtol=0.06, atol=0)


def test_fitted_log_loss_is_never_worse(taxonomy, tree):
    for n_cells in [3, 200]:
        for seed in range(4):
            torch.manual_seed(seed)
            logits, nodes = drawn(tree, n_cells, sharpness=2.5, spread=2.0)
            fitted = level_losses(tree, logits, nodes, fit_temperatures(tree, logits, nodes))
            plain = level_losses(tree, logits, nodes, torch.ones(taxonomy.max_depth))
            assert all(after <= before + 1e-6 for after, before in zip(fitted, plain, strict=True))
            if n_cells == 200:
                assert sum(fitted) < sum(plain) - 1e-3


def test_order_inside_a_group_never_changes(ragged):
    tree = TreeAlgebra(ragged)
    logits, nodes = drawn(tree, 500, sharpness=4.0)
    temperatures = fit_temperatures(tree, logits, nodes)
    assert (temperatures > 0).all()
    cooled = logits / temperatures[tree.edge_depth - 1].double()
    before, after = tree.conditional_log_probs(logits), tree.conditional_log_probs(cooled)
    for group in ragged.groups:
        edges = torch.tensor(group.astype("int64")) - 1
        assert torch.equal(before[:, edges].argsort(dim=1), after[:, edges].argsort(dim=1))


def test_levels_of_single_children_and_levels_without_cells_stay_at_one():
    chain = TreeAlgebra(Taxonomy.from_nested({"T": {"CD4": ["a"]}, "B": {"plasma": ["b", "c"]}}))
    logits = 9 * torch.randn(50, chain.taxonomy.n_edges)
    # Cells of T alone: the first level has a choice, the ones below have none.
    below_t = torch.full((50,), chain.taxonomy.resolve("T > CD4 > a"))
    temperatures = fit_temperatures(chain, logits, below_t)
    assert temperatures[0] != 1.0
    assert temperatures[1:].tolist() == [1.0, 1.0]
    unlabelled = fit_temperatures(chain, logits, torch.zeros(50, dtype=torch.int64))
    assert unlabelled.tolist() == [1.0, 1.0, 1.0]


def test_separable_and_hopeless_data_stay_within_the_bounds():
    tree = TreeAlgebra(Taxonomy.from_nested({"T": [], "B": []}))
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 20)
    right, wrong = torch.tensor([1, 2] * 20), torch.tensor([2, 1] * 20)
    assert fit_temperatures(tree, logits, right).item() == pytest.approx(0.05, rel=0.05)
    assert fit_temperatures(tree, logits, wrong).item() == pytest.approx(20.0, rel=0.05)
    extreme = fit_temperatures(tree, logits * 1e6, wrong)
    assert torch.isfinite(extreme).all()
