"""What a private training guarantees, and the noise that it takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from math import exp, log
from typing import Any, Final, Literal

import numpy as np
from scipy.optimize import brentq

from hdeepinsight._errors import invalid, need_extra

Mode = Literal["whole", "partial_safe", "paper"]
#: Releases: noise multiplier, sampling rate, and how often.
History = Sequence[tuple[float, float, int]]
#: Orders of the Rényi divergence that are tried.
ORDERS: Final = [1 + x / 10 for x in range(1, 100)] + [*range(11, 64), 128, 256, 512]
_NOISE_BOUNDS: Final = 0.3, 1e4

_UNSEEDED: Final = "not private: noise_seed is known, so that the noise can be subtracted."
_OF_MODE: Final[dict[str, tuple[str, ...]]] = {
    "whole": (
        "It covers the saved weights. The embedding of a cell is a function of that cell, and "
        "clusters made of it are not covered.",
    ),
    "partial_safe": (
        "The number holds for the encoder alone, as long as the decoder is the random one.",
    ),
    "paper": (
        "No guarantee: the decoder learns from the same cells without noise, and the gradients of "
        "the encoder pass through it.",
    ),
}
_ALWAYS: Final = (
    "One cell is the unit, added or removed; the number of cells counts as public.",
    "Hyper-parameters that were chosen on these cells add to epsilon.",
    "Leaks through floating-point arithmetic are out of scope.",
)


@dataclass(frozen=True)
class PrivacyReport:
    """What a training of a :class:`DPDCAN` spent, and on which conditions that rests.

    Parameters
    ----------
    mode
        As given to :meth:`DPDCAN.train`.
    accounted_epsilon
        What the accountant says of all noisy releases; see ``epsilon`` for the guarantee.
    delta
        Probability with which epsilon may be exceeded.
    noise_multiplier, max_grad_norm, sample_rate, steps
        Noise in units of the largest gradient norm, that norm, the probability of a cell to be in
        a step, and the number of steps.
    projection_noise
        Noise of the projection in units of its sensitivity; ``None`` where there is none.
    ratio
        Norm of the noise over the largest norm of the averaged gradient.
    accountant
        Name of the accountant.
    is_seeded
        Whether the noise had a known seed.
    conditions
        What the number rests on and what it leaves out, in sentences.

    Examples
    --------
    >>> from hdeepinsight.models import PrivacyReport
    >>> report = PrivacyReport("paper", 4.0, 1e-5, 3.5, 0.1, 0.1, 500, None, 12.0)
    >>> report.epsilon, report.nominal_epsilon
    (None, 4.0)
    """

    mode: Mode
    accounted_epsilon: float
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    projection_noise: float | None
    ratio: float
    accountant: str = "rdp"
    is_seeded: bool = False
    conditions: tuple[str, ...] = ()

    @property
    def epsilon(self) -> float | None:
        """Epsilon of the guarantee; ``None`` where nothing is guaranteed."""
        return self._of("whole")

    @property
    def encoder_epsilon_conditional(self) -> float | None:
        """What would hold for the encoder of a ``"partial_safe"`` training; no guarantee."""
        return self._of("partial_safe")

    @property
    def nominal_epsilon(self) -> float | None:
        """What the published accounting says; no guarantee."""
        return self._of("paper")

    @property
    def guarantee(self) -> str | None:
        """The guarantee as a sentence; ``None`` where nothing is guaranteed."""
        if self.epsilon is None:
            return None
        return f"The weights are ({self.epsilon:.3g}, {self.delta:g})-private per cell."

    def _of(self, mode: Mode) -> float | None:
        return self.accounted_epsilon if self.mode == mode and not self.is_seeded else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for the model file."""
        return {**asdict(self), "conditions": list(self.conditions)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrivacyReport:
        """Return the report that :meth:`to_dict` gave."""
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**{**known, "conditions": tuple(known["conditions"])})


def conditions_of(
    mode: Mode, *, is_seeded: bool, genes_are_public: bool, logs_losses: bool, groups: str = ""
) -> tuple[str, ...]:
    """Return what the epsilon of a training rests on, in sentences."""
    said = (
        *((_UNSEEDED,) if is_seeded else ()),
        *_OF_MODE[mode],
        *(() if genes_are_public else ("The list of genes counts as public.",)),
        *(("Losses were logged without noise and are not covered.",) if logs_losses else ()),
        *((groups,) if groups else ()),
    )
    return said + _ALWAYS


@lru_cache(maxsize=256)
def _rdp_of_a_step(noise: float, rate: float) -> np.ndarray:
    rdp = need_extra("opacus.accountants.analysis.rdp", "privacy", "Differential privacy")
    found = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=ORDERS)
    return np.asarray(found)


def spent_epsilon(history: History, delta: float) -> float:
    """Compute epsilon of noisy releases by Rényi divergences of the sampled Gaussian mechanism."""
    rdp = need_extra("opacus.accountants.analysis.rdp", "privacy", "Differential privacy")
    spent = sum(steps * _rdp_of_a_step(noise, rate) for noise, rate, steps in history)
    with warnings.catch_warnings():  # at the last order the bound is loose, and still holds
        warnings.filterwarnings("ignore", message="Optimal order is")
        return float(rdp.get_privacy_spent(orders=ORDERS, rdp=spent, delta=delta)[0])


def solve_noise(
    epsilon: float, delta: float, sample_rate: float, steps: int, before: History = ()
) -> float:
    """Return the least noise multiplier at which steps, after other releases, keep to a budget."""

    def excess(log_noise: float) -> float:
        # Nothing smaller is accounted for exactly, and nothing larger is of use.
        return spent_epsilon([*before, (exp(log_noise), sample_rate, steps)], delta) - epsilon

    low, high = map(log, _NOISE_BOUNDS)
    if excess(high) > 0:
        hint = f"A larger budget, a larger delta or fewer than {steps:,} steps are needed."
        raise invalid("target_epsilon", epsilon, "a budget that noise can meet", hint)
    if excess(low) < 0:
        return _NOISE_BOUNDS[0]
    return exp(float(brentq(excess, low, high, xtol=1e-5)) + 1e-5)
