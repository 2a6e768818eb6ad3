"""Collect the contents of the report, render them as HTML and JSON, and write the file."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np

from hdeepinsight import __version__, pl, tl
from hdeepinsight._errors import counted, examples, invalid, refuse_unused
from hdeepinsight._io import atomic_write, escape_controls
from hdeepinsight.annotation import Annotation, check_same_cells, evaluate_annotation
from hdeepinsight.report import _cells, _tables
from hdeepinsight.taxonomy import check_nodes

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.axes import Axes


logger = logging.getLogger(__name__)

#: Characters of a recipe entry that are shown.
_MAX_SETTING: Final = 400
#: Names that are listed; further ones are only counted.
_MAX_NAMES: Final = 60
#: Leaves, and characters of a name, beyond which figures would not fit a screen.
_MAX_LEAVES, _MAX_NAME = 150, 60
#: Characters that are not percent-encoded in data URIs, which halves their size.
_SAFE: Final = " !$&'()*+,-./:;=?@_~"
#: Text is kept as text, so that the browser has a font for every script; the fixed salt makes
#: figures reproducible.
_SVG: Final[Any] = {"svg.fonttype": "none", "svg.hashsalt": "hdeepinsight"}
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(
    result: Annotation,
    path: str | Path,
    *,
    query: Any | None = None,
    reference: Any = None,
    evidence: tl.MarkerEvidence | None = None,
    title: str | None = None,
    model: str | None = None,
    clusters: Any | None = None,
    embedding: Any | None = None,
    color_by: Sequence[str] = (),
    true_nodes: np.ndarray | None = None,
    created: datetime | None = None,
) -> None:
    """Write an HTML report with the labels of an annotation, the evidence and quality checks.

    The report is a single file that needs no network. It begins with the verdict, followed by the
    composition, a plot of the cells (coloured by label, confidence, novelty, batch or a marker
    gene), the marker genes of each label, cells that stop above a type, decisions, input and
    genes, and a methods paragraph with references. All figures are also included as JSON
    (``script#hdeepinsight-report``).

    Parameters
    ----------
    result
        The annotation; its probabilities may come from any tool.
    path
        File to write. It is written atomically: an existing file is replaced by a complete
        report, or kept.
    query
        The annotated cells (AnnData, MuData, path, opened query). Its coordinates
        (``obsm["X_umap"]``, ...), clusters (``leiden``, ``louvain``, ...) and batches are used.
        Its expression is used for the marker evidence and, if it has no coordinates, to compute
        an embedding.
    reference
        The trained model, for the markers of its reference; without it, only curated markers are
        used.
    evidence
        Marker evidence computed before by :func:`hdeepinsight.tl.marker_evidence`, for example
        with an explanation.
    title
        Title of the report.
    model
        Name of the model, for the header.
    clusters
        Cluster of each cell, ``(n_cells,)``, or the name of a column of the query's ``obs``.
    embedding
        Coordinates of the cells, ``(n_cells, 2)``, such as ``adata.obsm["X_umap"]``; only the
        first two columns are used. Cells without finite coordinates are not drawn.
    color_by
        Further columns of the query's ``obs`` to colour cells by.
    true_nodes
        Known node of each cell, ``(n_cells,)``, as returned by ``taxonomy.encode(labels)``; 0 is
        unknown. The report then compares the labels with them.
    created
        Time stamp; by default ``$SOURCE_DATE_EPOCH`` or now. With the same time stamp, the same
        result gives the same file.

    Raises
    ------
    ValueError
        If the query, clusters, coordinates or nodes do not match the cells.
    KeyError
        If ``clusters`` or ``color_by`` names a column that the query does not have.

    Notes
    -----
    At most 20,000 cells are drawn, with some of each label, or 5,000 if an embedding has to be
    computed. The report is written even if the query cannot be read for marker evidence or an
    embedding; it then states the reason.

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
    given = None if isinstance(clusters, str) else clusters  # a column of the query
    per_cell = {"clusters": given, "embedding": embedding, "true_nodes": true_nodes}
    for name, values in per_cell.items():
        if values is not None:
            check_same_cells(result.obs_names, values, name)
    if true_nodes is not None:
        (true_nodes,) = check_nodes(result.taxonomy, len(result), true_nodes=true_nodes)
        true_nodes = true_nodes if (true_nodes > 0).any() else None
    if created is None:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")  # convention for reproducible builds
        created = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    title = title or f"Cell types of {counted(len(result), 'cell')}"
    head = {"title": title, "model": model, "version": __version__}
    if reference is not None and not hasattr(reference, "genes"):
        hint = "Load it with hdi.hub.load_model."
        raise invalid("reference", type(reference).__name__, "a trained model", hint)
    refuse_unused({"reference": query is None and reference is not None}, "without a query")
    color_by = [color_by] if isinstance(color_by, str) else color_by
    cells, unread = _cells.collect(result, query, clusters, embedding, color_by), ""
    if evidence is None and query is not None and len(result):
        try:
            evidence = tl.marker_evidence(result, query, reference)
        except Exception as error:  # the report is written without marker evidence
            logger.debug("no marker evidence was computed", exc_info=True)
            unread = f"Marker genes could not be read from the query: {error}"
    evaluation = None if true_nodes is None else evaluate_annotation(result, true_nodes)
    sets, set_sizes = _tables.label_sets(result)
    confidence, tree = result.confidence.to_numpy(), result.taxonomy
    absent = np.setdiff1d(tree.leaves, result.stop_nodes).tolist()
    figures: dict[str, float] = {"n_cells": len(result), "n_types": tree.n_leaves - len(absent)}
    if len(result):
        figures["mean_confidence"] = float(confidence.mean())
        figures["share_stopped"] = float(result.is_stopped.mean())
        figures["share_unknown"] = float((result.stop_nodes == 0).mean())
    if result.gene_report:
        figures["gene_coverage"] = result.gene_report.coverage
    page = {  # None for parts without data
        "unread": unread,
        "light": "" if result.verdict is None else str(result.verdict.light),
        "verdict": _summary(result, evidence),
        "key_figures": figures,
        "composition": _tables.composition(result),
        "absent": list(map(tree.label, absent)),
        "bins": _tables.bins_of(confidence),
        "quartiles": np.quantile(confidence, (0.25, 0.5, 0.75)) if len(result) else None,
        "scatter": _cells.scatter(result, cells, evidence),
        "origin": cells.origin,
        "evidence": _tables.evidence(result, evidence),
        "markers": evidence,
        "n_stopped": int(result.is_stopped.sum()),
        "stops": _tables.stops(result),
        "novelty": _tables.novelty(result),
        "sets": sets,
        "set_sizes": set_sizes,
        "evaluation": evaluation,
        "scores": evaluation and _tables.scores(evaluation),
        "clusters": _tables.clusters(result, cells.clusters),
        "figures": _figures(result, evidence, true_nodes),
    }
    content = _render(result, page, head, created)
    with atomic_write(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def _summary(result: Annotation, evidence: tl.MarkerEvidence | None) -> list[str]:
    """Return the sentences of the verdict, with the most important marker evidence."""
    n_above = int(result.is_stopped.sum())
    sentences = ["There are no cells."]
    if result.verdict is not None:
        sentences = list(result.verdict.sentences)
    elif len(result):
        typed = f"{len(result) - n_above:,} of {counted(len(result), 'cell')} have a type"
        unknown = "Whether the query resembles a reference was not assessed."
        sentences = [f"{typed}; {n_above:,} stop above one. {unknown}"]
    if result.calibration_note:
        sentences.append(f"The probabilities are {result.calibration_note}.")
    if evidence is not None and len(evidence.labels):
        lineages = evidence.labels[~evidence.labels.index.str.contains(" > ")]
        assessed = lineages["verdict"].isin(["supported", "contradicted"])
        if lineages.loc[assessed, "n_cells"].sum() * 2 < lineages["n_cells"].sum():
            names = ", ".join(lineages.loc[~assessed, "label"])
            sentences.append(f"There is no marker evidence for {names}, only labels.")
        elif evidence.contradicted or result.verdict is None:
            sentences += evidence.sentences()[: max(1, len(evidence.contradicted))]
    return sentences


def _figures(
    result: Annotation, evidence: tl.MarkerEvidence | None, true_nodes: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    """Draw the figures, by name; those of known labels with the numbers of their description."""
    tree, found = result.taxonomy, {}
    longest = max(map(len, (*tree.labels, *tree.level_names)))
    fits_screen = tree.n_leaves <= _MAX_LEAVES and longest <= _MAX_NAME
    if evidence is not None and fits_screen and evidence.means.notna().to_numpy().any():
        found["evidence"] = _figure(lambda: pl.marker_evidence(evidence))
    known = np.flatnonzero(np.isin(() if true_nodes is None else true_nodes, tree.leaves))
    if true_nodes is not None and len(known):
        truth, predicted = true_nodes[known], result.leaf_nodes[known]
        confidence = result.node_probabilities[known, predicted].clip(0, 1)
        correct = truth == predicted
        numbers = {"n": len(known), "correct": correct.mean(), "confidence": confidence.mean()}
        found["reliability"] = _figure(lambda: pl.reliability(confidence, correct)) | numbers
        if fits_screen:
            found["confusion"] = _figure(lambda: pl.confusion(tree, truth, predicted)) | numbers
    return found


def _figure(draw: Callable[[], Axes]) -> dict[str, Any]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    content = BytesIO()
    with mpl.rc_context(_SVG), plt.ioff(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure: Any = draw().figure
        # Without a date, for reproducible files.
        figure.savefig(content, format="svg", metadata={"Date": None})
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        plt.close(figure)
    svg = _NOT_XML.sub("\ufffd", escape_controls(content.getvalue().decode()))
    source = f"data:image/svg+xml,{quote(svg, safe=_SAFE)}"
    return {"source": source, "width": width, "height": height}


def _environment() -> Environment:
    """Return the templates, which escape control and direction characters."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def visible(value: Any) -> Any:
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return escape_controls(value) if plain else value

    def grouped(value: Any) -> str:  # files of other tools may hold text instead of numbers
        return f"{value:,}" if isinstance(value, int) else str(value)

    loader, undefined = PackageLoader("hdeepinsight.report"), StrictUndefined
    trim: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": undefined}
    environment = Environment(loader=loader, autoescape=True, finalize=visible, **trim)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    listed = partial(examples, n=_MAX_NAMES)
    environment.filters |= {"grouped": grouped, "counted": counted, "listed": listed}
    return environment


def _render(
    result: Annotation, page: dict[str, Any], head: dict[str, Any], created: datetime
) -> str:
    from markupsafe import Markup

    environment, cited = _environment(), list[str]()

    def cite(key: str) -> str:
        cited.extend([key] * (key not in cited))
        return f"[{cited.index(key) + 1}]"

    def read(name: str) -> str:
        return (_tables.TEMPLATES / name).read_text(encoding="utf-8")

    compared, template = page["evaluation"] is not None, environment.get_template("methods.txt.j2")
    methods = template.render(result=result, cite=cite, compared=compared, version=__version__)
    page["methods"], sources = " ".join(methods.split()), json.loads(read("references.json"))
    page["references"] = [sources[key] for key in cited]
    quality = [*page["evidence"], page["stops"], *page["novelty"], page["set_sizes"]]
    tables = [page["composition"], *quality, page["scores"], page["clusters"]]
    reports = {"input_report": result.input_report, "gene_report": result.gene_report}
    facts = {
        "n_cells": len(result),
        "threshold": result.threshold,
        "decoder": result.decoder,
        "levels": result.taxonomy.level_names,
        "calibration_note": result.calibration_note,
        "verdict": {"light": page["light"], "sentences": page["verdict"]},
        "key_figures": page["key_figures"],
        **{name: report and report.to_dict() for name, report in reports.items()},
        "decisions": [decision.to_dict() for decision in result.decisions],
        "evaluation": page["evaluation"] and page["evaluation"].to_dict(),
        "tables": {table.key: table.to_dict() for table in tables if table is not None},
        "methods": page["methods"],
        "references": page["references"],
        "recipe": result.recipe,
    }
    style, script = read("report.css"), read("report.js")
    script += read("cells.js") if page["scatter"] else ""
    # The browser applies only this style and script, and loads nothing else. Names are escaped as
    # well; the policy is a second line of defence.
    allowed = f"style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    values = {str(name): str(value) for name, value in result.recipe.items()}
    return environment.get_template("report.html.j2").render(
        head,
        created=created,
        result=result,
        page=page,
        facts={**head, "created": created.isoformat(), **_tables.plain(facts)},
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'",
        adapted=any(step.applied and step.step == "adapt" for step in result.decisions),
        recipe={key: shorten(values[key], _MAX_SETTING, placeholder=" ...") for key in values},
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
