"""Privacy accounting: guarantees, their conditions, and the required noise."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from math import exp, log
from typing import Any, Final, Literal

import numpy as np
from scipy.optimize import brentq

from hdeepinsight._errors import invalid, need_extra

Mode = Literal["whole", "partial_safe", "paper"]
#: Releases: noise multiplier, sampling rate, and number of repetitions.
History = Sequence[tuple[float, float, int]]
#: Orders of the Rényi divergence.
ORDERS: Final = [1 + x / 10 for x in range(1, 100)] + [*range(11, 64), 128, 256, 512]
_NOISE_BOUNDS: Final = 0.3, 1e4
#: Share of epsilon spent on the projection; the training steps get the rest.
PROJECTION_SHARE: Final = 0.9

# Saved reports contain this sentence, and are read for it.
UNSEEDED: Final = "not private: noise_seed is known, so that the noise can be subtracted."
GENES: Final = "The list of genes is assumed to be public."
DONORS = "Donors are not protected: one donor has {:,} cells, and epsilon applies to a single cell."
OF_MODE: Final[dict[str, str]] = {
    "whole": "The guarantee covers the saved weights. Embeddings of training cells, and clusters "
    "computed from them, are not covered.",
    "partial_safe": "Epsilon applies to the encoder alone, as long as the decoder stays random.",
    "paper": "No guarantee: the decoder is trained on the same cells without noise, and the "
    "gradients of the encoder depend on it.",
}
ALWAYS: Final = (
    "The unit of privacy is one cell, added or removed; the number of cells is assumed public.",
    "Hyperparameters that were tuned on these cells increase epsilon.",
    "Leaks through floating-point arithmetic are out of scope.",
)


@dataclass(frozen=True, kw_only=True)
class PrivacyReport:
    """Privacy budget spent by the training of a :class:`DPDCAN`, and its conditions.

    Parameters
    ----------
    mode
        ``privacy`` of :meth:`DPDCAN.train`.
    delta
        Probability with which epsilon may be exceeded.
    noise_multiplier, max_grad_norm, sample_rate
        Noise in units of the maximum gradient norm, that norm, and the sampling probability of
        each cell in a step.
    projection_noise
        Noise of the projection in units of its sensitivity; ``None`` without projection.
    ratio
        Norm of the noise divided by the maximum norm of the averaged gradient.
    conditions
        Assumptions and limitations of the guarantee, in sentences.
    steps, accounted_epsilon
        Number of steps, and epsilon of all noisy releases by the accountant; see ``epsilon`` for
        the guarantee.
    accountant
        Name of the accountant.

    Examples
    --------
    >>> from hdeepinsight.models import PrivacyReport
    >>> noise = {"noise_multiplier": 3.5, "max_grad_norm": 0.1, "sample_rate": 0.1}
    >>> report = PrivacyReport(mode="paper", delta=1e-5, **noise, accounted_epsilon=4.0)
    >>> report.epsilon, report.nominal_epsilon
    (None, 4.0)
    """

    mode: Mode
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    projection_noise: float | None = None
    ratio: float = 0.0
    conditions: tuple[str, ...] = ()
    steps: int = 0
    accounted_epsilon: float = 0.0
    accountant: str = "rdp"

    def after(self, steps: int) -> PrivacyReport:
        """Return the report after a number of steps."""
        projection = [(self.projection_noise, 1.0, 1)] if self.projection_noise else []
        history = [*projection, (self.noise_multiplier, self.sample_rate, steps)]
        return replace(self, steps=steps, accounted_epsilon=spent_epsilon(history, self.delta))

    def is_noisy(self, parameter: str) -> bool:
        """Return whether noise is added to the gradients of a parameter of the network."""
        return self.mode == "whole" or parameter.startswith("encoder.")

    @property
    def epsilon(self) -> float | None:
        """Guaranteed epsilon; ``None`` without a guarantee."""
        return self._of("whole")

    @property
    def encoder_epsilon_conditional(self) -> float | None:
        """Conditional epsilon of the encoder with ``"partial_safe"``; not a guarantee."""
        return self._of("partial_safe")

    @property
    def nominal_epsilon(self) -> float | None:
        """Epsilon of the published accounting with ``"paper"``; not a guarantee."""
        return self._of("paper")

    @property
    def guarantee(self) -> str | None:
        """The guarantee as a sentence; ``None`` without one."""
        if self.epsilon is None:
            return None
        return f"The weights are ({self.epsilon:.3g}, {self.delta:g})-private per cell."

    def _of(self, mode: Mode) -> float | None:
        is_sound = self.mode == mode and UNSEEDED not in self.conditions
        return self.accounted_epsilon if is_sound else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for the model file."""
        return {**asdict(self), "conditions": list(self.conditions)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrivacyReport:
        """Return the report for a dict from :meth:`to_dict`."""
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**known | {"conditions": tuple(known["conditions"])})


@lru_cache(maxsize=256)
def _rdp_of_a_step(noise: float, rate: float) -> np.ndarray:
    rdp = need_extra("opacus.accountants.analysis.rdp", "privacy", "Differential privacy")
    found = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=ORDERS)
    return np.asarray(found)


def spent_epsilon(history: History, delta: float) -> float:
    """Compute epsilon of noisy releases by Rényi divergences of the sampled Gaussian mechanism."""
    rdp = need_extra("opacus.accountants.analysis.rdp", "privacy", "Differential privacy")
    spent = sum(steps * _rdp_of_a_step(noise, rate) for noise, rate, steps in history)
    with warnings.catch_warnings():  # at the last order the bound is loose but valid
        warnings.filterwarnings("ignore", message="Optimal order is")
        return float(rdp.get_privacy_spent(orders=ORDERS, rdp=spent, delta=delta)[0])


def solve_noise(
    epsilon: float, delta: float, sample_rate: float, steps: int, before: History = ()
) -> float:
    """Compute the smallest noise multiplier with which steps after other releases meet a budget."""

    def excess(log_noise: float) -> float:
        return spent_epsilon([*before, (exp(log_noise), sample_rate, steps)], delta) - epsilon

    low, high = map(log, _NOISE_BOUNDS)
    if excess(high) > 0:
        hint = f"Increase it or delta, or take fewer than {steps:,} steps."
        raise invalid("target_epsilon", epsilon, "large enough to be met with noise", hint)
    if excess(low) < 0:
        return _NOISE_BOUNDS[0]
    return exp(float(brentq(excess, low, high, xtol=1e-5)) + 1e-5)


def within_budget(
    mode: Mode,
    epsilon: float,
    delta: float,
    rate: float,
    steps: int,
    projects: bool,
    noise: float | None = None,
    **about: Any,
) -> PrivacyReport:
    """Return the planned report of a training with the smallest noise that meets a budget.

    Parameters
    ----------
    mode, epsilon, delta, rate, steps
        Privacy mode, budget, sampling rate and number of steps.
    projects
        Whether a projection is released before the steps.
    noise
        Noise multiplier of all releases; by default the smallest that meets the budget.
    **about
        Further fields of the report.
    """
    projection = None
    if projects:
        projection = noise or solve_noise(PROJECTION_SHARE * epsilon, delta, 1.0, 1)
    before = [(projection, 1.0, 1)] if projection else []
    noise = noise or solve_noise(epsilon, delta, rate, steps, before)
    how: Any = {"noise_multiplier": noise, "sample_rate": rate, "delta": delta}
    return PrivacyReport(mode=mode, projection_noise=projection, **how, **about)
