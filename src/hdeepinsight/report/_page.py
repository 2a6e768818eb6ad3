"""The page itself: a template with its style and script, which nothing else may join."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight.report import _labels, _notes

if TYPE_CHECKING:
    from datetime import datetime

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.report._content import Content

__all__ = ["render"]

_LONGEST_SETTING = 400


def render(content: Content, *, title: str, model: str | None, created: datetime) -> str:
    """Fill the template.

    Parameters
    ----------
    content
        What the page says.
    title, model, created
        What stands in its head.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from hdeepinsight import __version__

    environment = Environment(
        loader=PackageLoader("hdeepinsight.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    style, script = _part("report.css"), _part("report.js")
    head = {"title": title, "model": model, "version": __version__}
    return environment.get_template("report.html.j2").render(
        head,
        created=created,
        page=content,
        facts={**head, "created": created.isoformat(), **content.to_dict()},
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        **_words(content.result),
    )


def _words(result: Annotation) -> dict[str, Any]:
    """Sentences and single figures of the page that stand in no table."""
    matrix, genes = result.input_report, result.gene_report
    confidence = result.confidence.to_numpy()
    return {
        "matrix": matrix and _notes.input_sentences(matrix),
        "genes": genes and _notes.gene_sentences(genes),
        "absent": _notes.absent_types(result),
        "bins": _labels.bins_of(confidence),
        "quartiles": np.quantile(confidence, (0.25, 0.5, 0.75)) if len(result) else None,
        "n_stopped": int(_labels.above_a_type(result).sum()),
        "adapted": any(step.applied and step.step == "adapt" for step in result.decisions),
        "recipe": {
            str(name): shorten(str(value), _LONGEST_SETTING, placeholder=" ...")
            for name, value in result.recipe.items()
        },
    }


def _part(name: str) -> str:
    return (files("hdeepinsight.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Let the browser run our style and script alone, and load nothing from anywhere.

    Escaping keeps names from becoming markup; this is the second lock on the same door.
    """
    allowed = f"style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
