"""The page: gathered once for people and machines, rendered, and written in one piece."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight import __version__, tl
from hdeepinsight._errors import counted
from hdeepinsight._io import atomic_write, escape_controls
from hdeepinsight.annotation import Annotation, check_nodes, check_same_cells
from hdeepinsight.report import _cells, _figures, _tables, _text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hdeepinsight.tl import MarkerEvidence, ReferenceModel

logger = logging.getLogger(__name__)

_LONGEST_SETTING = 400


def write(
    result: Annotation,
    path: str | Path,
    *,
    query: Any | None = None,
    reference: ReferenceModel | None = None,
    evidence: MarkerEvidence | None = None,
    title: str | None = None,
    model: str | None = None,
    clusters: Any | None = None,
    embedding: Any | None = None,
    color_by: Sequence[str] = (),
    true_nodes: np.ndarray | None = None,
    created: datetime | None = None,
) -> None:
    """Write one HTML page that says what an annotation holds and how far to trust it.

    The page needs no network and no other file. It begins with the verdict in words, then shows
    the composition, the cells in two dimensions (coloured by label, confidence, novelty, batch or
    a marker gene), the marker genes of every label, what was stopped and why, decisions, input and
    genes, and a methods paragraph with its sources; all its figures stand in it as JSON too
    (``script#hdeepinsight-report``).

    Parameters
    ----------
    result
        The annotation, whoever made the probabilities.
    path
        File to write. It appears in one piece: one that is there is replaced by a whole page, or
        stays.
    query
        The annotated cells (AnnData, MuData, path, opened query). Its coordinates
        (``obsm["X_umap"]``, ...), clusters (``leiden``, ``louvain``, ...) and batches are picked
        up, and its expression gives the evidence and, where there are none, coordinates.
    reference
        The trained model, for the markers of its reference; without it those of common knowledge
        are looked up in the query.
    evidence
        Markers of the labels, where they were looked up before by
        :func:`hdeepinsight.tl.marker_evidence`, with an explanation for example.
    title
        Heading of the page.
    model
        Name of the model, for the head of the page.
    clusters
        Cluster of every cell, ``(n_cells,)``, such as ``adata.obs["leiden"]``.
    embedding
        Coordinates to draw the cells at, ``(n_cells, 2)``, such as ``adata.obsm["X_umap"]``; of
        more columns the first two are drawn. Cells without finite ones are left out.
    color_by
        Further columns of the query's ``obs`` to colour cells by.
    true_nodes
        Known node of every cell, ``(n_cells,)``, as ``taxonomy.encode(labels)`` gives it; 0 is
        unknown. The page then compares labels with them.
    created
        Time to write on the page; by default ``$SOURCE_DATE_EPOCH`` or now. With the same time,
        the same result gives the same file.

    Raises
    ------
    ValueError
        If the query, clusters, coordinates or nodes do not fit the cells.
    KeyError
        If ``color_by`` names a column that the query does not have.

    Notes
    -----
    At most 20,000 cells are drawn, some of every label, and the page says so; 5,000 where their
    coordinates have to be made. What is optional never costs the page: a query that cannot be
    read for evidence or coordinates is reported on the page.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4 T", "CD8 T"], "B": []})
    >>> p = np.array([[1, 0.9, 0.1, 0.5, 0.4]])
    >>> result = hdi.Annotation(taxonomy=tree, obs_names=["a"], node_probabilities=p)
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> hdi.report.write(result, page, title="One cell")
    >>> "<h1>One cell</h1>" in page.read_text(encoding="utf-8")
    True
    """
    given = {"clusters": clusters, "embedding": embedding, "true_nodes": true_nodes}
    for name, values in given.items():
        if values is not None:
            check_same_cells(result.obs_names, values, name)
    if true_nodes is not None:
        true_nodes = check_nodes(result.taxonomy, true_nodes, len(result))
        true_nodes = true_nodes if (true_nodes > 0).any() else None
    if created is None:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")  # the time that builds agree on
        created = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    title = title or f"Cell types of {counted(len(result), 'cell')}"
    head = {"title": title, "model": model, "version": __version__}
    cells = _cells.gather(result, query, clusters, embedding, color_by)
    found, unread = evidence, ""
    if evidence is None and query is not None and len(result):
        try:
            found = tl.marker_evidence(result, query, reference)
        except Exception as error:  # markers are worth less than the rest of the page
            logger.debug("no evidence was found", exc_info=True)
            unread = f"The query could not be read for its marker genes: {error}"
    page = _gather(result, found, cells, true_nodes)
    content = _render(result, page | {"unread": unread}, head, created)
    with atomic_write(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def _gather(
    result: Annotation,
    evidence: MarkerEvidence | None,
    cells: _cells.Given,
    true_nodes: np.ndarray | None,
) -> dict[str, Any]:
    """Gather what the page shows; ``None`` stands for what an annotation does not carry."""
    evaluation, scores = None, None
    if true_nodes is not None:
        evaluation, scores = _tables.scores(result, true_nodes)
    paragraph, references = _text.methods(result, compared=true_nodes is not None)
    sets, set_sizes = _tables.label_sets(result)
    light, verdict = _text.summary(result, evidence)
    return {
        "result": result,
        "light": light,
        "verdict": verdict,
        "key_figures": _text.key_figures(result),
        "composition": _tables.composition(result),
        "picture": _cells.picture(result, cells, evidence),
        "origin": cells.origin,
        "evidence": _tables.evidence(result, evidence),
        "evidence_said": [] if evidence is None else evidence.sentences(),
        "stops": _tables.stops(result),
        "sets": sets,
        "set_sizes": set_sizes,
        "novelty": _tables.novelty(result),
        "evaluation": evaluation,
        "scores": scores,
        "clusters": _tables.clusters(result, cells.clusters),
        "drawn": _figures.drawn(result, evidence, true_nodes),
        "decisions": list(map(str, result.decisions)),
        "methods": paragraph,
        "references": references,
    }


def _facts(page: dict[str, Any]) -> Any:
    """Return the figures of the page in plain types, for the machine-readable part."""
    result = page["result"]
    reports = {"input_report": result.input_report, "gene_report": result.gene_report}
    trust = [*page["evidence"], page["stops"], *page["novelty"], page["set_sizes"]]
    tables = [page["composition"], *trust, page["scores"], page["clusters"]]
    return _tables.plain(
        {
            "n_cells": len(result),
            "threshold": result.threshold,
            "decoder": result.decoder,
            "levels": result.taxonomy.level_names,
            "calibration_note": result.calibration_note,
            "verdict": {"light": page["light"], "sentences": page["verdict"]},
            "key_figures": {figure.key: figure.value for figure in page["key_figures"]},
            **{name: report and report.to_dict() for name, report in reports.items()},
            "decisions": [decision.to_dict() for decision in result.decisions],
            "evaluation": page["evaluation"] and page["evaluation"].to_dict(),
            "tables": {table.key: table.to_dict() for table in tables if table is not None},
            "methods": page["methods"],
            "references": page["references"],
            "recipe": result.recipe,
        }
    )


def _render(
    result: Annotation, page: dict[str, Any], head: dict[str, Any], created: datetime
) -> str:
    """Fill the template; no text in it holds a control or direction character."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def visible(value: Any) -> Any:
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return escape_controls(value) if plain else value

    environment = Environment(
        loader=PackageLoader("hdeepinsight.report"),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    templates = files("hdeepinsight.report") / "templates"
    style, script, draw = (
        (templates / name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js", "cells.js")
    )
    script += draw if page["picture"] else ""
    # The browser runs our style and script alone, and loads nothing from anywhere. Escaping keeps
    # names from becoming markup; this is the second lock on the same door.
    allowed = f"style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    matrix, genes = result.input_report, result.gene_report
    confidence = result.confidence.to_numpy()
    return environment.get_template("report.html.j2").render(
        head,
        created=created,
        page=page,
        facts={**head, "created": created.isoformat(), **_facts(page)},
        style=Markup(style),
        script=Markup(script),
        policy=policy,
        matrix=matrix and _text.input_sentences(matrix),
        genes=genes and _text.gene_sentences(genes),
        absent=_text.absent_types(result),
        bins=_tables.bins_of(confidence),
        quartiles=np.quantile(confidence, (0.25, 0.5, 0.75)) if len(result) else None,
        n_stopped=int(_tables.above_a_type(result).sum()),
        adapted=any(step.applied and step.step == "adapt" for step in result.decisions),
        recipe={
            str(name): shorten(str(value), _LONGEST_SETTING, placeholder=" ...")
            for name, value in result.recipe.items()
        },
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
