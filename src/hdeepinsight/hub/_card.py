"""What only a person knows about a model, and has to say before it is shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["ModelCard"]

_LISTS = ("tissues", "technologies", "datasets")
_REQUIRED = ("title", "license", "organism", "tissues")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model card says beyond what the model itself knows.

    Taxonomy, cells of every type, recipe, scores, genes and checksums are added by
    :func:`~hdeepinsight.hub.publish`. Texts are Markdown; HTML in them is shown, not rendered.

    Parameters
    ----------
    title
        Name of the model.
    license
        Licence under which the model is shared, best as its SPDX identifier (``"cc-by-4.0"``). It
        has to agree with the licences of the data.
    organism
        Species, such as ``"human"``.
    tissues
        Tissues of the reference.
    technologies
        Protocols of the reference, such as ``"10x 3' v3"``.
    description
        A few sentences on the reference and what is special about it.
    intended_use
        What the model is made for, and what it should not be used for.
    limitations
        What is known to go wrong.
    datasets
        Datasets of the reference, with accession, licence and citation.
    citation
        How to cite the model; BibTeX or plain text.
    contact
        Whom to write to.

    Raises
    ------
    ValueError
        If title, licence, organism or tissues are missing, or a text is something else.

    Examples
    --------
    >>> card = ModelCard(title="PBMC", license="cc-by-4.0", organism="human", tissues=["blood"])
    >>> card.tissues
    ('blood',)
    """

    title: str
    license: str
    organism: str
    tissues: tuple[str, ...]
    technologies: tuple[str, ...] = ()
    description: str = ""
    intended_use: str = ""
    limitations: str = ""
    datasets: tuple[str, ...] = ()
    citation: str = ""
    contact: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            clean = _texts(value) if field.name in _LISTS else _text(field.name, value)
            object.__setattr__(self, field.name, clean)
        missing = [name for name in _REQUIRED if not getattr(self, name)]
        if missing:
            msg = (
                f"The card says nothing about {', '.join(missing)}. A model that others are to use "
                "needs all of title, license, organism and tissues. Add them."
            )
            raise ValueError(msg)

    @classmethod
    def of(cls, card: ModelCard | Mapping[str, Any]) -> ModelCard:
        """Return the card itself, or make one of its fields.

        Raises
        ------
        ValueError
            If a field is unknown, or a required one is missing.

        Examples
        --------
        >>> from hdeepinsight.hub import ModelCard
        >>> fields = {
        ...     "title": "PBMC",
        ...     "license": "cc-by-4.0",
        ...     "organism": "human",
        ...     "tissues": "blood",
        ... }
        >>> ModelCard.of(fields).tissues
        ('blood',)
        """
        if isinstance(card, ModelCard):
            return card
        if not isinstance(card, Mapping):
            msg = (
                f"The card is a {type(card).__name__}. Valid are a ModelCard, and its fields by "
                'name. Pass {"title": ..., "license": ..., "organism": ..., "tissues": [...]}.'
            )
            raise TypeError(msg)
        known = [field.name for field in fields(cls)]
        unknown = [name for name in card if name not in known]
        if unknown:
            msg = (
                f"The card has the fields {', '.join(map(repr, unknown))}. Valid are "
                f"{', '.join(known)}. Rename them, or put the text into description."
            )
            raise ValueError(msg)
        return cls(**(dict.fromkeys(_REQUIRED, "") | dict(card)))


def _text(name: str, value: object) -> str:
    """Text of a field; nothing, as ``null`` in a file, is no text."""
    if value is not None and not isinstance(value, str):
        msg = f"The card gives {name}={value!r}. Valid is text. Write it as one, in quotes."
        raise ValueError(msg)
    return (value or "").strip()


def _texts(value: object) -> tuple[str, ...]:
    """Texts of a field that holds several, without empty ones; a single text counts as one."""
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    return tuple(str(text) for text in several if text is not None and str(text).strip())
