"""The label-free check: weights of label changes, and decisions."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight.adaptation import (
    AdaptationFigures,
    check_adaptation,
    follow_changes,
    weigh_changes,
)

LABELS = ("B", "T", "NK")
GOOD = AdaptationFigures(
    changed=0.1,
    held_out_marker_score=1.0,
    n_types=6.0,
)


def two_leaves(old: float, n_cells: int = 95) -> torch.Tensor:
    """Cells that get the first leaf with this probability, the second with the rest."""
    return torch.tensor([[old, 1 - old, 0.0]] * n_cells)


def random_estimates(n_cells: int = 300, seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.dirichlet([0.5] * 3, n_cells)) for _ in range(4)]


def test_weights_follow_each_measurement() -> None:
    for figures, share in [
        ({"genes": 0.0}, 0.0),
        ({"unlike": 0.5}, 0.5),
        ({"unlike": 0.8}, 0.0),
        ({"n_types": 1.7}, 0.25),
        ({"n_types": 1.2}, 0.0),
        ({"unsupported": 0.6}, 0.0),
        ({"unsupported": 0.2}, 1.0),
        ({"shift_query": 0.42}, 0.7),
        ({"shift_query": 0.3}, 0.0),
    ]:
        trust, doubt = replace(GOOD, **figures).doubt()
        assert trust == pytest.approx(share)
        assert bool(doubt) == (share < 1)


def test_class_means_follow_some_measurements() -> None:
    for figures, share in [
        ({"unlike": 0.8}, 0.0),
        ({"unsupported": 0.6}, 1.0),
        ({"shift_query": 0.3}, 1.0),
        ({"shift_query": 0.02, "shift_reference": 0.2}, 0.5),
        ({"shift_query": -0.1, "shift_reference": 0.1}, 0.0),
        ({"shift_query": 0.004, "shift_reference": None}, 0.0),
        ({"shift_query": 0.0, "genes": 0.8}, 1.0),
    ]:
        trust, doubt = replace(GOOD, **figures).doubt(of_network=False)
        assert trust == pytest.approx(share)
        assert bool(doubt) == (share < 1)


def test_another_batch_of_the_reference() -> None:
    assert replace(GOOD, shift_query=0.3).like_a_batch
    assert not replace(GOOD, shift_query=0.5).like_a_batch
    assert not GOOD.like_a_batch


def test_the_reason_states_the_decisive_measurement() -> None:
    for figures, words in [
        ({"unlike": 0.8}, "80% of its cells"),
        ({"n_types": 1.2}, r"effectively 1\.2"),
        ({"unsupported": 0.6}, "60% of the labels would change"),
        ({"shift_query": -0.002}, r"cells of the same batch .* \(-0\.02 of the distance"),
        ({"unlike": 0.5, "n_types": 1.2}, "one type"),
    ]:
        assert re.search(words, replace(GOOD, **figures).doubt()[1])


def test_the_lowest_support_decides() -> None:
    for support, weight in [(0.3, 0.0), (0.42, 0.64), (0.5, 1.0)]:
        for least in range(3):
            heard = [two_leaves(0.1) for _ in range(3)]
            heard[least] = two_leaves(1 - support)
            weights, (change,) = weigh_changes(two_leaves(0.9), *heard, LABELS)
            assert (change.old, change.new, change.n_cells) == ("B", "T", 95)
            assert change.support == pytest.approx(support)
            assert change.followed == pytest.approx(weight, abs=1e-4)
            assert weights[0, 1] == pytest.approx(weight, abs=1e-4)


def test_few_cells_are_weak_evidence() -> None:
    found = []
    for n_cells in (1, 5, 50):
        heard = [two_leaves(0.5 - 1e-3, n_cells)] * 3
        found.append(weigh_changes(two_leaves(0.9, n_cells), *heard, LABELS)[1][0].followed)
    assert found == pytest.approx([0.0, 0.5, 1.0], abs=0.02)


def test_order_of_cells_does_not_matter() -> None:
    estimates, order = random_estimates(), np.random.default_rng(1).permutation(300)
    weights, changes = weigh_changes(*estimates, LABELS)
    again, changes_again = weigh_changes(*(each[order] for each in estimates), LABELS)
    torch.testing.assert_close(weights, again)
    assert [c.n_cells for c in changes] == [c.n_cells for c in changes_again]
    assert sum(c.n_cells for c in changes) < 300


def test_small_differences_change_weights_little() -> None:
    plain = two_leaves(0.9)
    shares = []
    for support in np.arange(0.3, 0.5, 0.002):
        heard = [two_leaves(1 - float(support))] + [two_leaves(0.1)] * 2
        shares.append(weigh_changes(plain, *heard, LABELS)[0][0, 1])
    assert np.abs(np.diff(shares)).max() < 0.03
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_followed_probabilities_are_a_distribution() -> None:
    plain, network, profiles, held_out = random_estimates()
    weights, _ = weigh_changes(plain, network, profiles, held_out, LABELS)
    proposed = (network + profiles) / 2
    found = follow_changes(plain, proposed, weights)
    torch.testing.assert_close(found.sum(1), torch.ones(300, dtype=torch.float64))
    assert ((found - plain) * (found - proposed) <= 1e-12).all()
    none = follow_changes(plain, proposed, torch.zeros(3, 3))
    everything = follow_changes(plain, proposed, torch.ones(3, 3))
    assert torch.equal(none, plain)
    torch.testing.assert_close(everything, proposed)


def test_noise_changes_no_label() -> None:
    plain, *heard = random_estimates(2000)
    weights, report = check_adaptation(plain, *heard, LABELS)
    assert report.decision == "zero-shot"
    assert report.figures.changed == 0
    assert report.figures.unsupported > 0.5
    assert not weights.any()
    assert "% of the labels would change without" in report.reason


def test_a_rejected_change_does_not_affect_the_others() -> None:
    plain = torch.cat([two_leaves(0.9), two_leaves(0.1, 200), torch.eye(3)[[2] * 40].float()])
    heard = plain.clone()
    heard[:30] = torch.tensor([0.1, 0.9, 0.0])
    network, held_out = heard.clone(), heard.clone()
    heard[30:50] = torch.tensor([0.0, 0.0, 1.0])  # the profiles alone
    network[30:50] = torch.tensor([0.7, 0.1, 0.2])
    weights, report = check_adaptation(plain, network, heard, held_out, LABELS)
    assert report.decision == "adapted"
    assert report.reason == (
        "network, profiles and held-out markers support B to T (30 cells); "
        "rejected because of low support or few cells: B to NK (20 cells, 0%)"
    )
    assert report.figures.changed == pytest.approx(30 / len(plain))
    assert report.figures.unsupported == pytest.approx(20 / len(plain))
    assert weights[0].tolist() == [0.5, 1.0, 0.0]


def test_unchanged_labels_of_another_batch_keep_their_probabilities() -> None:
    estimates = [each.roll(shift, 0) for shift, each in enumerate(random_estimates())]
    near, far = (check_adaptation(*estimates, LABELS, shift_query=shift)[0] for shift in (0.3, 0.7))
    assert (near.diagonal() == 0).all()
    torch.testing.assert_close(near - near.diag().diag(), far - far.diag().diag())


def test_the_network_is_not_followed_on_another_batch_but_class_means_are() -> None:
    estimates = [each.roll(shift, 0) for shift, each in enumerate(random_estimates())]
    weights, report = check_adaptation(*estimates, LABELS, shift_query=0.2)
    assert not weights.any()
    assert report.decision == "zero-shot"
    moved = [estimates[0]] * 4
    weights, report = check_adaptation(*moved, LABELS, shift_query=0.2, before=estimates[1])
    changed = (estimates[0].argmax(1) != estimates[1].argmax(1)).float().mean()
    assert report.decision == "adapted"
    assert report.figures.changed == pytest.approx(float(changed))
    assert report.reason.startswith(
        "class means were recomputed with the cells of the query; the types of the query are hardly"
    )


def test_switched_off_it_applies_all_changes_and_reports_the_check() -> None:
    plain, *heard = random_estimates(2000)
    weights, report = check_adaptation(plain, *heard, LABELS, guard=False)
    assert report.decision == "adapted"
    assert "the check is switched off; with it: " in report.reason
    assert (weights == 1).all()


@pytest.mark.parametrize("n_cells", [1, 5])
def test_a_few_cells_of_one_type_change_nothing(n_cells: int) -> None:
    plain, heard = two_leaves(0.9, n_cells), [two_leaves(0.1, n_cells)] * 3
    _, report = check_adaptation(plain, *heard, LABELS)
    assert (report.decision, report.figures.changed) == ("zero-shot", 0.0)
    assert "little more than one type" in report.reason


def test_classifiers_that_agree_change_nothing() -> None:
    plain = random_estimates()[0]
    _, report = check_adaptation(plain, plain, plain, plain, LABELS)
    assert (report.decision, report.reason) == ("zero-shot", "no label would change")


def test_measurements_equal_values_computed_by_hand() -> None:
    before = torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.5, 0.5]])
    after = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    held_out = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    found = AdaptationFigures.measure(before, after, held_out, genes=0.9)
    assert found.changed == pytest.approx(1 / 3)
    assert found.held_out_marker_score == pytest.approx(float(torch.tensor(4.0).log()))
    assert found.genes == 0.9


def test_effective_number_of_types_of_a_uniform_query_is_their_number() -> None:
    uniform = torch.eye(5).repeat(3, 1)
    found = AdaptationFigures.measure(uniform, uniform, uniform)
    assert found.n_types == pytest.approx(5.0)
    assert found.changed == found.held_out_marker_score == 0.0


@pytest.mark.filterwarnings("ignore::hdeepinsight.data.GeneCoverageWarning")
def test_shuffled_genes_are_not_adapted_to() -> None:
    query = hdi.datasets.demo().query
    rng = np.random.default_rng(0)
    query.X = sparse.csr_matrix(rng.permuted(query.X.toarray(), axis=0))  # the mean stays
    adapted = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
    adapted.train()
    report = adapted.adapter_.report
    assert report.decision == "zero-shot"
    assert report.figures.unlike == 1.0
    assert "the query does not look like the reference: 100%" in report.reason
