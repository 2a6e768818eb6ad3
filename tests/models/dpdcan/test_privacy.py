"""Privacy accounting and reports."""

from dataclasses import FrozenInstanceError

import pytest

from hdeepinsight.models import PrivacyReport
from hdeepinsight.nn import UNSEEDED, solve_noise, spent_epsilon

accountants = pytest.importorskip("opacus.accountants")
DELTA = 1e-5
MODES = ("whole", "partial_safe", "paper")


def report_of(mode: str, **given) -> PrivacyReport:
    noise = {"noise_multiplier": 3.45, "max_grad_norm": 0.1, "sample_rate": 0.1}
    usual = {"delta": DELTA, "steps": 842, "accounted_epsilon": 4.0, **noise}
    return PrivacyReport(mode=mode, **usual | given)


def test_published_settings_cost_what_was_measured():
    for n, batch, steps, noise, epsilon in [
        (2122, 210, 842, 3.46, 3.987),
        (2122, 210, 842, 2.0, 8.001),
        (3005, 300, 827, 2.0, 8.001),
        (561, 50, 1043, 2.0, 8.005),
    ]:
        assert spent_epsilon([(noise, batch / n, steps)], DELTA) == pytest.approx(epsilon, abs=0.01)


def test_noise_meets_the_budget():
    for epsilon, noise in [(1, 11.70), (2, 6.27), (4, 3.45), (6, 2.49), (8, 2.00), (10, 1.71)]:
        found = solve_noise(float(epsilon), DELTA, 210 / 2122, 842)
        assert found == pytest.approx(noise, abs=0.01)
        spent = spent_epsilon([(found, 210 / 2122, 842)], DELTA)
        assert epsilon - 0.01 < spent <= epsilon


def test_a_tighter_accountant_agrees():
    prv = accountants.PRVAccountant()
    prv.history = [(3.46, 210 / 2122, 842)]
    assert prv.get_epsilon(DELTA) == pytest.approx(3.686, abs=0.02)
    assert prv.get_epsilon(DELTA) < spent_epsilon([(3.46, 210 / 2122, 842)], DELTA)


def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise():
    usual = spent_epsilon([(2.0, 0.1, 100)], DELTA)
    assert spent_epsilon([(2.0, 0.1, 200)], DELTA) > usual
    assert spent_epsilon([(2.0, 0.2, 100)], DELTA) > usual
    assert spent_epsilon([(4.0, 0.1, 100)], DELTA) < usual


def test_steps_after_a_projection_share_its_budget():
    projection = solve_noise(3.6, DELTA, 1.0, 1)
    before = [(projection, 1.0, 1)]
    assert spent_epsilon(before, DELTA) == pytest.approx(3.6, abs=0.01)
    noise = solve_noise(4.0, DELTA, 0.1, 500, before)
    assert spent_epsilon([*before, (noise, 0.1, 500)], DELTA) == pytest.approx(4.0, abs=0.01)
    assert noise > solve_noise(4.0, DELTA, 0.1, 500)


def test_an_unreachable_budget_is_refused():
    before = [(1.0, 1.0, 1)]
    with pytest.raises(ValueError, match="target_epsilon must be large enough to be met"):
        solve_noise(1.0, DELTA, 0.1, 500, before)


def test_only_the_whole_model_states_an_epsilon():
    for mode in MODES:
        report = report_of(mode)
        told = report.epsilon, report.encoder_epsilon_conditional, report.nominal_epsilon
        assert [value is not None for value in told] == [mode == name for name in MODES]
        assert (report.guarantee is not None) == (mode == "whole")
        assert PrivacyReport.from_dict(report.to_dict()) == report
        with pytest.raises((FrozenInstanceError, AttributeError)):
            report.epsilon = 1.0
        with pytest.raises(TypeError):
            report_of(mode, guarantee="(1, 0)")


def test_a_known_seed_voids_the_guarantee():
    for mode in MODES:
        report = report_of(mode, conditions=(UNSEEDED,))
        assert report.epsilon is report.guarantee is report.nominal_epsilon is None
        assert report.encoder_epsilon_conditional is None
