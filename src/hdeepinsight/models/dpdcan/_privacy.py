"""Privacy reports: guarantees and their conditions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from hdeepinsight.nn import UNSEEDED, spent_epsilon

Mode = Literal["whole", "partial_safe", "paper"]
DONORS = "Donors are not protected: one donor has {:,} cells, and epsilon applies to a single cell."
OF_MODE: Final[dict[str, str]] = {
    "whole": "The guarantee covers the saved weights. Embeddings of training cells, and clusters "
    "computed from them, are not covered.",
    "partial_safe": "Epsilon applies to the encoder alone, as long as the decoder stays random.",
    "paper": "No guarantee: the decoder is trained on the same cells without noise, and the "
    "gradients of the encoder depend on it.",
}


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
