"""The page: gathered once for people and machines, rendered, and written in one piece."""

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
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np

from hdeepinsight import __version__, pl, tl
from hdeepinsight._errors import counted, examples
from hdeepinsight._io import atomic_write, escape_controls
from hdeepinsight.annotation import Annotation, check_same_cells, evaluate_annotation
from hdeepinsight.report import _cells, _tables
from hdeepinsight.taxonomy import check_nodes

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.axes import Axes

    from hdeepinsight.tl import MarkerEvidence, ReferenceModel

logger = logging.getLogger(__name__)

_LONGEST_SETTING: Final = 400
#: Names listed before the rest is only counted.
_MOST_NAMES: Final = 60
#: A tree with more leaves, or longer names, gives a figure that no screen holds.
_MOST_LEAVES, _LONGEST_NAME = 150, 60
#: Characters that an address may hold as they are: half the size of encoding them all.
_KEPT: Final = " !$&'()*+,-./:;=?@_~"
#: Text stays text, so that the browser draws the scripts that our font lacks; and the same names
#: inside give the same figure.
_SVG: Final[Any] = {"svg.fonttype": "none", "svg.hashsalt": "hdeepinsight"}
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TEMPLATES: Final = files("hdeepinsight.report") / "templates"


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
        (true_nodes,) = check_nodes(result.taxonomy, len(result), true_nodes=true_nodes)
        true_nodes = true_nodes if (true_nodes > 0).any() else None
    if created is None:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")  # the time that builds agree on
        created = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    title = title or f"Cell types of {counted(len(result), 'cell')}"
    head = {"title": title, "model": model, "version": __version__}
    cells, unread = _cells.gather(result, query, clusters, embedding, color_by), ""
    if evidence is None and query is not None and len(result):
        try:
            evidence = tl.marker_evidence(result, query, reference)
        except Exception as error:  # markers are worth less than the rest of the page
            logger.debug("no evidence was found", exc_info=True)
            unread = f"The query could not be read for its marker genes: {error}"
    evaluation = None if true_nodes is None else evaluate_annotation(result, true_nodes)
    sets, set_sizes = _tables.label_sets(result)
    confidence, absent = result.confidence.to_numpy(), result.taxonomy.leaves
    absent = np.setdiff1d(absent, result.stop_nodes).tolist()
    page = {  # None stands for what an annotation does not carry
        "unread": unread,
        "light": "" if result.verdict is None else str(result.verdict.light),
        "verdict": _summary(result, evidence),
        "key_figures": _key_figures(result),
        "composition": _tables.composition(result),
        "absent": list(map(result.taxonomy.label, absent)),
        "bins": _tables.bins_of(confidence),
        "quartiles": np.quantile(confidence, (0.25, 0.5, 0.75)) if len(result) else None,
        "picture": _cells.picture(result, cells, evidence),
        "origin": cells.origin,
        "evidence": _tables.evidence(result, evidence),
        "evidence_said": [] if evidence is None else evidence.sentences(),
        "n_stopped": int(_tables.above_a_type(result).sum()),
        "stops": _tables.stops(result),
        "novelty": _tables.novelty(result),
        "sets": sets,
        "set_sizes": set_sizes,
        "evaluation": evaluation,
        "scores": evaluation and _tables.scores(evaluation),
        "clusters": _tables.clusters(result, cells.clusters),
        "drawn": _drawn(result, evidence, true_nodes),
    }
    content = _render(result, page, head, created)
    with atomic_write(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def _key_figures(result: Annotation) -> list[dict[str, Any]]:
    """Give the figures to know first: for machines a key and value, for people three texts."""
    n_cells, tree = len(result), result.taxonomy
    n_types = int(np.isin(tree.leaves, result.stop_nodes).sum())
    figures: list[tuple[Any, ...]] = [
        ("n_cells", n_cells, "Cells", f"{n_cells:,}", "annotated"),
        ("n_types", n_types, "Types found", f"{n_types:,}", f"of {tree.n_leaves:,}"),
    ]
    if n_cells:
        mean, of = float(result.confidence.mean()), "probability of the label or nearest type"
        figures.append(("mean_confidence", mean, "Mean confidence", f"{mean:.3f}", of))
        above, unknown = _tables.above_a_type(result), result.stop_nodes == 0
        named = ("stopped", "Stopped above a type", above), ("unknown", "Unknown", unknown)
        for key, name, cells in named:
            share, n = float(cells.mean()), counted(int(cells.sum()), "cell")
            figures.append((f"share_{key}", share, name, f"{share:.1%}", n))
    if genes := result.gene_report:
        of, share = f"{genes.n_measured:,} of {genes.n_model:,} genes", genes.coverage
        figures.append(("gene_coverage", share, "Gene coverage", f"{share:.1%}", of))
    names = ("key", "value", "name", "shown", "explanation")
    return [dict(zip(names, figure, strict=True)) for figure in figures]


def _summary(result: Annotation, evidence: MarkerEvidence | None) -> list[str]:
    """Say what to know first."""
    n_above = int(_tables.above_a_type(result).sum())
    said = ["There are no cells."]
    if result.verdict is not None:
        said = list(result.verdict.sentences)
    elif len(result):
        typed = f"{len(result) - n_above:,} of {counted(len(result), 'cell')} have a type"
        unknown = "Nothing has judged whether the query looks like a reference."
        said = [f"{typed}; {n_above:,} stop above one. {unknown}"]
    if result.calibration_note:
        said.append(f"The probabilities are {result.calibration_note}.")
    if evidence is not None and len(evidence.labels):
        lineages = evidence.labels[~evidence.labels.index.str.contains(" > ")]
        judged = lineages["verdict"].isin(["supported", "contradicted"])
        if lineages.loc[judged, "n_cells"].sum() * 2 < lineages["n_cells"].sum():
            names = ", ".join(lineages.loc[~judged, "label"])
            said.append(f"Nothing but the model speaks for {names}: no markers could be judged.")
        elif evidence.contradicted or result.verdict is None:
            said += evidence.sentences()[: max(1, len(evidence.contradicted))]
    return said


def _drawn(
    result: Annotation, evidence: MarkerEvidence | None, true_nodes: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    """Draw what can be drawn, by name, each with a text that says what is seen, with numbers."""
    tree, found = result.taxonomy, {}
    longest = max(map(len, (*tree.labels, *tree.level_names)))
    has_room = tree.n_leaves <= _MOST_LEAVES and longest <= _LONGEST_NAME
    if evidence is not None and has_room and evidence.means.notna().to_numpy().any():
        verdicts = evidence.labels["verdict"].value_counts()
        n = int(verdicts.get("supported", 0))
        alt = (
            f"Dot plot of {evidence.means.shape[1]} marker genes in the cells of "
            f"{len(evidence.labels)} labels; {n} of {n + len(evidence.contradicted)} labels that "
            "could be judged are supported by their markers. The table below has the numbers."
        )
        found["evidence"] = _figure(lambda: pl.marker_evidence(evidence), alt)
    known = np.flatnonzero(np.isin(() if true_nodes is None else true_nodes, tree.leaves))
    if true_nodes is not None and len(known):
        truth, said = true_nodes[known], result.leaf_nodes[known]
        sure, right = result.node_probabilities[known, said].clip(0, 1), truth == said
        of = f"{len(known):,} cells of known type: {right.mean():.1%} are right"
        alt = f"Share of right types against their probability for {of}; the mean probability is "
        found["reliability"] = _figure(
            lambda: pl.reliability(sure, right), f"{alt}{sure.mean():.3f}."
        )
        if has_room:
            alt = f"Percent of each true type by predicted type for {of}."
            found["confusion"] = _figure(lambda: pl.confusion(tree, truth, said), alt)
    return found


def _figure(draw: Callable[[], Axes], alt: str) -> dict[str, Any]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    content = BytesIO()
    with mpl.rc_context(_SVG), plt.ioff(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure: Any = draw().figure
        # Without a date the same result gives the same page.
        figure.savefig(content, format="svg", metadata={"Date": None})
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        plt.close(figure)
    svg = _NOT_XML.sub("\ufffd", escape_controls(content.getvalue().decode()))
    source = f"data:image/svg+xml,{quote(svg, safe=_KEPT)}"
    return {"source": source, "alt": alt, "width": width, "height": height}


def _environment() -> Environment:
    """Return the templates; no text that they write holds a control or direction character."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def visible(value: Any) -> Any:
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return escape_controls(value) if plain else value

    def grouped(value: Any) -> str:  # what a foreign file has in the place of a number stays
        return f"{value:,}" if isinstance(value, int) else str(value)

    loader, undefined = PackageLoader("hdeepinsight.report"), StrictUndefined
    trim: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": undefined}
    environment = Environment(loader=loader, autoescape=True, finalize=visible, **trim)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    listed = partial(examples, n=_MOST_NAMES)
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
        return (_TEMPLATES / name).read_text(encoding="utf-8")

    compared, template = page["evaluation"] is not None, environment.get_template("methods.txt.j2")
    methods = template.render(result=result, cite=cite, compared=compared)
    page["methods"], sources = " ".join(methods.split()), json.loads(read("references.json"))
    page["references"] = [sources[key] for key in cited]
    trust = [*page["evidence"], page["stops"], *page["novelty"], page["set_sizes"]]
    tables = [page["composition"], *trust, page["scores"], page["clusters"]]
    reports = {"input_report": result.input_report, "gene_report": result.gene_report}
    facts = {
        "n_cells": len(result),
        "threshold": result.threshold,
        "decoder": result.decoder,
        "levels": result.taxonomy.level_names,
        "calibration_note": result.calibration_note,
        "verdict": {"light": page["light"], "sentences": page["verdict"]},
        "key_figures": {figure["key"]: figure["value"] for figure in page["key_figures"]},
        **{name: report and report.to_dict() for name, report in reports.items()},
        "decisions": [decision.to_dict() for decision in result.decisions],
        "evaluation": page["evaluation"] and page["evaluation"].to_dict(),
        "tables": {table.key: table.to_dict() for table in tables if table is not None},
        "methods": page["methods"],
        "references": page["references"],
        "recipe": result.recipe,
    }
    style, script = read("report.css"), read("report.js")
    script += read("cells.js") if page["picture"] else ""
    # The browser runs our style and script alone, and loads nothing from anywhere. Escaping keeps
    # names from becoming markup; this is the second lock on the same door.
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
        recipe={key: shorten(values[key], _LONGEST_SETTING, placeholder=" ...") for key in values},
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
