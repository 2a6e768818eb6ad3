"""What was decided on the way to an annotation, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One step that could be taken or left, decided without labels of the query.

    Parameters
    ----------
    step
        Name of the step, such as ``"adapt"`` or ``"refine"``.
    applied
        Whether the result contains it.
    reason
        Why, in a sentence.
    figures
        What the reason rests on, by name.

    Examples
    --------
    >>> print(Decision(step="refine", applied=False, reason="the graph carries no information."))
    refine: left out, because the graph carries no information.
    """

    step: str
    applied: bool
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give the decision in plain types.

        Examples
        --------
        >>> from hdeepinsight.annotation import Decision
        >>> Decision(step="adapt", applied=True, reason="the donors differ.").to_dict()
        {'step': 'adapt', 'applied': True, 'reason': 'the donors differ.', 'figures': {}}
        """
        return {
            "step": self.step,
            "applied": self.applied,
            "reason": self.reason,
            "figures": dict(self.figures),
        }

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in self.figures.items())
        verdict = "applied" if self.applied else "left out"
        return f"{self.step}: {verdict}, because {self.reason}" + (f" ({figures})" * bool(figures))
