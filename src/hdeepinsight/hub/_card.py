"""The card of a model: what only a person knows of it, and what it knows itself."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np

from hdeepinsight._errors import invalid

_LISTS = ("tissues", "technologies", "datasets")
_REQUIRED = ("title", "license", "organism", "tissues")
#: Licences that a hub knows by these names; any other one is "other", with its name beside it.
_KNOWN_LICENSES = re.compile(
    r"apache-2\.0|mit|bsd|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[34]\.0|a?gpl-3\.0|"
    r"gpl-2\.0|lgpl-3\.0|mpl-2\.0|odc-by|odbl|pddl|unlicense|other"
)
_ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{11}(\.\d+)?")


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
            value: Any = getattr(self, field.name)
            if field.name in _LISTS:
                several = isinstance(value, Iterable) and not isinstance(value, str)
                texts = value if several else (value,)
                value = tuple(str(text) for text in texts if text and str(text).strip())
            elif value is None or isinstance(value, str):
                value = (value or "").strip()
            else:
                raise invalid(field.name, value, "text", "Put it in quotes.")
            object.__setattr__(self, field.name, value)
        if lacking := ", ".join(name for name in _REQUIRED if not getattr(self, name)):
            raise ValueError(f"The card says nothing about {lacking}, which others need. Add it.")

    @classmethod
    def of(cls, card: ModelCard | Mapping[str, Any]) -> ModelCard:
        """Return the card itself, or make one of its fields.

        Raises
        ------
        ValueError
            If it is neither a card nor a mapping of its fields, or a required one is missing.

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
        known = ", ".join(field.name for field in fields(cls))
        if not isinstance(card, Mapping):
            raise invalid("card", type(card).__name__, f"a ModelCard or a mapping with {known}")
        if unknown := [name for name in card if name not in known.split(", ")]:
            raise invalid("card", unknown, f"a mapping with {known}", "Use description for text.")
        return cls(**(dict.fromkeys(_REQUIRED, "") | dict(card)))


def card_text(
    card: ModelCard, model: Any, labelled: Mapping[str, Any], digests: dict[str, str], address: str
) -> str:
    """Write the card as Markdown, with the header that hubs read.

    Parameters
    ----------
    card
        What the publisher says.
    model
        Trained model, which is asked for what it knows; with its reference attached there are cells
        per type and scores of the held-out cells.
    labelled
        Further labelled data to score, by name.
    digests
        SHA-256 of every file, by name.
    address
        Where the model can be pulled from.

    Raises
    ------
    ValueError
        If the attached reference is not the one that the model was trained on.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    taxonomy, own = getattr(model, "taxonomy", None), model.adata
    n_cells, scored = None, {}
    if taxonomy is not None and own is not None:
        held_out = model.validation_indices_
        if held_out is not None and len(held_out):
            scored["held-out cells of the reference"] = model.evaluate()
        n_cells = np.bincount(model.label_nodes(own), minlength=taxonomy.n_nodes)
    if taxonomy is not None:
        scored |= {name: model.evaluate(adata) for name, adata in labelled.items()}
    environment = Environment(
        loader=PackageLoader("hdeepinsight.hub", ""), undefined=StrictUndefined, trim_blocks=True
    )
    # Markdown: all that is not ours passes one of these filters.
    environment.filters.update(cell=as_cell, fenced=as_fenced, line=_line, markdown=as_markdown)
    environment.filters.update(number=_number, quoted=_quoted)
    environment.tests.update(ensembl=_ENSEMBL.fullmatch, known=_KNOWN_LICENSES.fullmatch)
    environment.globals.update(version=version, digests=digests, address=address, card=card)
    template = environment.get_template("card.md.j2")
    return template.render(model=model, taxonomy=taxonomy, n_cells=n_cells, scored=scored) + "\n"


def _number(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _quoted(text: object) -> str:
    return json.dumps(_line(text), ensure_ascii=False)  # JSON is YAML


def as_markdown(text: str) -> str:
    """Return the publisher's Markdown, in which HTML is shown instead of rendered."""
    return html.escape(text.strip(), quote=False)


def as_cell(text: object) -> str:
    """Return text that stays inside one cell of a table."""
    return html.escape(_line(text), quote=False).replace("|", "\\|")


def as_fenced(text: str, language: str = "text") -> str:
    """Return a block of code that nothing in the text can close."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"
