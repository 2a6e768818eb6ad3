"""The guard: figures from probabilities alone, and what they lead to."""

import re
from dataclasses import replace

import pytest
import torch

from hdeepinsight.adaptation import AdaptationFigures

GOOD = AdaptationFigures(
    changed=0.1,
    kept=0.99,
    held_out_marker_score=1.0,
    agreement_before=0.8,
    agreement_after=0.9,
    n_types_before=6.0,
    n_types_after=6.5,
    agreement_query=0.8,
    agreement_reference=0.95,
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"genes": 0.0}, "none of the genes", id="no_genes"),
        pytest.param({"unlike": 0.8}, "does not look like the reference: 80%", id="foreign"),
        pytest.param({"n_types_before": 1.2}, "hardly more than one type", id="one_type"),
        pytest.param({"agreement_query": 0.95}, "nothing to adapt to", id="like_the_reference"),
        pytest.param(
            {"shift_query": 1.0, "shift_reference": 0.34},
            r"2\.9 times as far .* \(1\.00 against 0\.34; up to 3 counts as alike\)",
            id="one_more_batch",
        ),
        pytest.param({"shift_query": -0.1, "shift_reference": 0.1}, r"0\.0 times", id="nearer"),
        pytest.param({"kept": 0.9}, "agreed on kept", id="undisputed_cells_changed"),
        pytest.param({"n_types_after": 2.0}, "one type swallows", id="collapse"),
        pytest.param({"held_out_marker_score": -0.1}, "do not favour", id="referee"),
        pytest.param({"replay_before": 0.9, "replay_after": 0.5}, "40.0% worse", id="replay"),
    ],
)
def test_each_figure_can_veto(changes: dict, reason: str) -> None:
    decision, said = replace(GOOD, **changes).decide()
    assert decision == "zero-shot"
    assert re.search(reason, said)


def test_switched_off_it_says_what_it_would_have_said() -> None:
    decision, said = replace(GOOD, kept=0.9).decide(guard=False)
    assert decision == "adapted"
    assert "would have said: only 90.0%" in said


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"agreement_reference": None, "agreement_query": 1.0},
        {"changed": 0.0, "held_out_marker_score": 0.0},
        {"unlike": 0.3},
        {"replay_before": 0.9, "replay_after": 0.85},
        {"shift_query": 0.4, "shift_reference": 0.1},
        {"shift_query": 0.2, "shift_reference": 0.1, "genes": 0.8},
        {"shift_query": 0.0, "shift_reference": None},
    ],
    ids=[
        "good",
        "unknown_reference",
        "no_change",
        "mostly_known",
        "little_forgotten",
        "another_study",
        "genes_are_missing",
        "one_batch",
    ],
)
def test_nothing_to_object(changes: dict) -> None:
    assert replace(GOOD, **changes).decide()[0] == "adapted"


def test_figures_by_hand() -> None:
    before = torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.5, 0.5]])
    after = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    profile = torch.tensor([[0.8, 0.2], [0.1, 0.9], [0.7, 0.3]])
    referee = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    found = AdaptationFigures.measure(before, after, profile, referee, agreement_reference=0.9)
    assert found.changed == pytest.approx(1 / 3)
    assert found.kept == 1.0
    assert found.held_out_marker_score == pytest.approx(float(torch.tensor(4.0).log()))
    assert found.agreement_before == pytest.approx(1 / 3)
    assert found.agreement_after == pytest.approx(2 / 3)
    assert found.agreement_query == pytest.approx(2 / 3)
    assert found.agreement_reference == 0.9


def test_effective_number_of_types_of_a_uniform_query_is_their_number() -> None:
    uniform = torch.eye(5).repeat(3, 1)
    found = AdaptationFigures.measure(uniform, uniform, uniform, uniform)
    assert found.n_types_before == pytest.approx(5.0)
    assert found.changed == found.held_out_marker_score == 0.0
