"""A model card as Markdown, with the header that hubs read."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

if TYPE_CHECKING:
    from hdeepinsight.hub._card import ModelCard
    from hdeepinsight.hub._facts import ModelFacts, Scored

__all__ = ["RELIABILITY_FILE", "TAG", "card_text"]

RELIABILITY_FILE: Final = "reliability.png"
#: What hubs are searched for.
TAG: Final = "hdeepinsight"
#: Licences that a hub knows by these names; any other one is "other", with its name beside it.
_KNOWN_LICENSES = re.compile(
    r"apache-2\.0|mit|bsd|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[34]\.0|a?gpl-3\.0|"
    r"gpl-2\.0|lgpl-3\.0|mpl-2\.0|odc-by|odbl|pddl|unlicense|other"
)
_TO_BE_ADDED = "Not stated by the publisher."
_MOST_LINES = 400


def card_text(
    card: ModelCard, facts: ModelFacts, checksums: Mapping[str, str], *, address: str
) -> str:
    """Write the card.

    Parameters
    ----------
    card
        What the publisher says.
    facts
        What the model knows.
    checksums
        SHA-256 of every file, by name.
    address
        Where the model can be pulled from.
    """
    sections = [
        f"---\n{_header(card, facts)}---",
        f"# {_text(card.title)}",
        _text(card.description) or _TO_BE_ADDED,
        _how_to_use(address),
        _section("Intended use", _text(card.intended_use) or _TO_BE_ADDED),
        _section("Known limits", _text(card.limitations) or _TO_BE_ADDED),
        _section("Reference", _reference(card, facts)),
        _section("Taxonomy", _taxonomy(facts)),
        _section("Evaluation", _evaluation(facts)),
        _section("Genes", _genes(facts)),
        _section("Recipe", _table(_recipe(facts.model.recipe), ("setting", "value"))),
        _section("Licence", f"{_text(card.license)}, for the model and what lies beside it."),
        _section("How to cite", _fenced(card.citation) if card.citation else _TO_BE_ADDED),
        _section("Contact", _text(card.contact) or _TO_BE_ADDED),
        _section("Checksums", _checksums(checksums)),
    ]
    return "\n\n".join(sections) + "\n"


def _header(card: ModelCard, facts: ModelFacts) -> str:
    import yaml

    license = card.license.strip().lower()
    known = license if _KNOWN_LICENSES.fullmatch(license) else "other"
    header: dict[str, Any] = {
        "license": known,
        **({} if known == license else {"license_name": card.license}),
        "library_name": "scvi-tools",
        "tags": _tags(card, facts),
    }
    return str(yaml.safe_dump(header, sort_keys=False, allow_unicode=True))


def _tags(card: ModelCard, facts: ModelFacts) -> list[str]:
    model = facts.model
    modalities = ["rna", *(["protein"] if model.protein_layout is not None else [])]
    return [
        "biology",
        "genomics",
        "single-cell",
        TAG,
        f"model_cls_name:{type(model).__name__}",
        f"scvi_version:{model.registry_.get('scvi_version', version('scvi-tools'))}",
        f"anndata_version:{version('anndata')}",
        *(f"modality:{name}" for name in modalities),
        *(f"tissue:{_line(name)}" for name in card.tissues),
        "annotated:True",
        f"organism:{_line(card.organism)}",
        f"n_types:{model.taxonomy.n_leaves}",
        f"n_genes:{facts.genes.n_genes}",
    ]


def _how_to_use(address: str) -> str:
    code = (
        "import hdeepinsight as hdi\n\n"
        f'model = hdi.hub.pull("{address}")  # add revision="..." to pin it\n'
        "labels = model.annotate(query).labels  # query: AnnData with raw counts"
    )
    return _fenced(code, "python")


def _reference(card: ModelCard, facts: ModelFacts) -> str:
    rows = [
        ("organism", card.organism),
        ("tissues", ", ".join(card.tissues)),
        ("technologies", ", ".join(card.technologies) or _TO_BE_ADDED),
        ("cells", _number(facts.model.recipe.get("n_cells"))),
    ]
    datasets = "\n".join(f"- {_text(' '.join(name.split()))}" for name in card.datasets)
    return _table(rows, ("", "")) + (f"\n\nDatasets:\n\n{datasets}" if datasets else "")


def _taxonomy(facts: ModelFacts) -> str:
    taxonomy = facts.model.taxonomy
    counted = "cells of the reference in brackets; " if facts.n_cells is not None else ""
    levels = ", ".join(map(_line, taxonomy.level_names))
    tree = taxonomy.show(facts.n_cells, max_lines=_MOST_LINES)
    return f"{taxonomy.n_leaves} types; {counted}levels {_cell(levels)}.\n\n{_fenced(tree)}"


def _evaluation(facts: ModelFacts) -> str:
    if not facts.scored:
        return "No scores: the model was published without labelled data."
    tables = "\n\n".join(_scores(scored) for scored in facts.scored)
    picture = (
        f"![Reliability of the types]({RELIABILITY_FILE})\n\n"
        f"Share of right types among cells of equal confidence ({_cell(facts.scored[0].name)}); "
        "on the diagonal, a label that claims 90 % is right 9 times of 10."
    )
    return f"{tables}\n\n{picture}"


def _scores(scored: Scored) -> str:
    evaluation = scored.evaluation
    levels = evaluation.levels.reset_index(names="level")
    hierarchical = evaluation.hierarchical
    return (
        f"### {_cell(scored.name)}\n\n{_frame(levels)}\n\n"
        f"{evaluation.n_cells:,} cells; hierarchical F1 {hierarchical.f1:.3f}; "
        f"{evaluation.share_stopped:.1%} of cells stop above a type."
    )


def _genes(facts: ModelFacts) -> str:
    genes = facts.genes
    names = f"{genes.n_ensembl:,} Ensembl identifiers, {genes.n_genes - genes.n_ensembl:,} symbols"
    rows = [(f"{n:,}", f"{share:.1%}") for n, share in genes.share_of_top.items()]
    top = _table(rows, ("most expressed genes", "share of the expression")) if rows else ""
    return (
        f"{genes.n_genes:,} genes ({names}). A query may lack some: every annotation reports the "
        "share of the reference's expression that its genes carry. "
        f"First genes: {_cell(', '.join(facts.model.layout.genes[:10]))}.\n\n{top}"
    ).rstrip()


def _recipe(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), "–" if value is None else str(value)) for name, value in recipe.items()]


def _checksums(checksums: Mapping[str, str]) -> str:
    lines = "\n".join(f"{sha256}  {name}" for name, sha256 in checksums.items())
    return f"SHA-256, checked at every pull.\n\n{_fenced(lines)}"


def _section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}"


def _frame(frame: pd.DataFrame) -> str:
    rows = [[_number(value) for value in row.values()] for row in frame.to_dict("records")]
    return _table(rows, list(map(str, frame.columns)))


def _table(rows: Iterable[Iterable[str]], heads: Iterable[str]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _number(value: Any) -> str:
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _text(text: str) -> str:
    """Markdown of the publisher, whose HTML is shown instead of rendered."""
    return html.escape(text.strip(), quote=False)


def _cell(text: object) -> str:
    return html.escape(_line(text), quote=False).replace("|", "\\|")


def _fenced(text: str, language: str = "text") -> str:
    """Make a block that nothing in the text can close."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"
