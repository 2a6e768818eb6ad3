"""Targets, class balance and the teacher."""

import pytest
import torch

from hdeepinsight.adaptation import (
    MovingAverage,
    Targets,
    balance_classes,
    covered_share,
    restrict_to_labels,
    select_targets,
    soft_cross_entropy,
)
from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra


def one_hot(leaves: list[int], n_leaves: int) -> torch.Tensor:
    return torch.eye(n_leaves)[leaves]


def test_half_of_a_class_with_low_confidence_is_used() -> None:
    sure = torch.tensor([[0.9, 0.05, 0.05]] * 4)
    timid = torch.tensor([[0.3, 0.3 + 0.01 * i, 0.4 - 0.01 * i] for i in range(6, 10)])
    weights = select_targets(torch.cat([sure, timid])).weights
    assert (weights[:4] > 0).all()
    assert (weights[4:] > 0).sum() >= 2


def test_rare_classes_weigh_more_and_all_one_on_average() -> None:
    weights = select_targets(one_hot([0] * 15 + [1], 2), balance=0.5).weights
    # sizes count one cell more than there are: 16 and 2
    assert float(weights[15] / weights[0]) == pytest.approx((16 / 2) ** 0.5)
    total = 16 * weights[0] + 2 * weights[15]
    assert float(total) == pytest.approx(18.0)


def test_cross_entropy_of_leaves_is_the_sum_over_sibling_groups() -> None:
    tree = TreeAlgebra(Taxonomy.from_nested({"T": ["a", "b", "c"], "B": ["d", "e"], "N": []}))
    torch.manual_seed(0)
    student = tree.conditional_log_probs(torch.randn(5, tree.taxonomy.n_edges).double())
    teacher = tree(torch.randn(5, tree.taxonomy.n_edges).double()).exp()
    by_group = -(teacher[:, 1:] * student).sum(1).mean()
    targets = Targets(teacher[:, tree.leaf_index], torch.ones(5).double())
    leaves = tree.node_log_probs(student)[:, tree.leaf_index]
    torch.testing.assert_close(soft_cross_entropy(leaves, targets), by_group)


def test_balance_undoes_proportions() -> None:
    shares = torch.tensor([0.2, 0.3, 0.5])
    found = one_hot([0] * 60 + [1] * 30 + [2] * 10, 3)
    weighted = (balance_classes(found, shares).unsqueeze(1) * found).sum(0)
    torch.testing.assert_close(weighted / weighted.sum(), shares)


def test_query_of_one_type_covers_its_share_only() -> None:
    shares = torch.tensor([0.1, 0.9])
    assert covered_share(one_hot([0] * 500, 2), shares) == pytest.approx(0.1)
    assert covered_share(one_hot([0] * 5, 2), shares) == pytest.approx(0.05)


def test_labels_rule_leaves_out() -> None:
    allowed = torch.tensor([[True, True, False], [True, True, True], [False, False, True]])
    restricted = restrict_to_labels(torch.tensor([[0.2, 0.2, 0.6]] * 3), allowed)
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(restricted, expected, atol=1e-5, rtol=0)


def test_teacher_follows_slowly_and_leaves_the_student_in_place() -> None:
    student = torch.zeros(1)
    teacher = MovingAverage([student], decay=0.5)
    student += 1
    teacher.update()
    first = float(teacher.average[0])
    assert first == pytest.approx(0.9)  # the first steps keep little of the past
    with teacher.in_place():
        assert float(student) == pytest.approx(first)
    assert float(student) == 1.0
