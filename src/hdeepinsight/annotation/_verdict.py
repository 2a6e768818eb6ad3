"""The verdict on a query: whether it looks like what the model knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from hdeepinsight._errors import check_choice

Light = Literal["green", "yellow", "red"]
#: Whether cells that no type supports are stopped further up.
Reject = Literal["auto", "off"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far the labels of a query can be believed, before any of them is looked at.

    Parameters
    ----------
    light
        ``"green"``: the query looks like the reference; ``"yellow"``: in part; ``"red"``: it does
        not, and its labels should not be used without other evidence.
    sentences
        One sentence per finding, with its figure; the first one is the summary.
    figures
        What the sentences rest on, by name.

    Raises
    ------
    ValueError
        If there is no such light.

    Examples
    --------
    >>> verdict = Verdict(
    ...     light="red",
    ...     sentences=("The query does not look like the reference.", "No lineage fits 99 %."),
    ...     figures={"unrecognised": 0.99},
    ... )
    >>> print(verdict)
    RED: The query does not look like the reference.
      No lineage fits 99 %.
    """

    light: Light
    sentences: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("light", self.light, get_args(Light))
        object.__setattr__(self, "sentences", tuple(self.sentences))

    def __str__(self) -> str:
        return f"{self.light.upper()}: " + "\n  ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict in plain types.

        Examples
        --------
        >>> Verdict(light="green", sentences=("It fits.",)).to_dict()
        {'light': 'green', 'sentences': ['It fits.'], 'figures': {}}
        """
        figures = {name: float(value) for name, value in self.figures.items()}
        return asdict(self) | {"sentences": list(self.sentences), "figures": figures}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Make one from what :meth:`to_dict` gave, also after a file.

        Examples
        --------
        >>> verdict = Verdict(light="green", sentences=("It fits.",))
        >>> Verdict.from_dict(verdict.to_dict()) == verdict
        True
        """
        light: Any = str(data["light"])
        figures = {str(name): float(value) for name, value in data.get("figures", {}).items()}
        return cls(light=light, sentences=tuple(map(str, data["sentences"])), figures=figures)
