"""``hdeepinsight annotate``, ``report``, ``evaluate`` and ``explain``: a query and a model in."""

from __future__ import annotations

from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.text import Text

from hdeepinsight._errors import counted
from hdeepinsight._io import atomic_write
from hdeepinsight._progress import progress as step
from hdeepinsight.cli import _files
from hdeepinsight.cli._console import RED, frame_table, in_options, note, show
from hdeepinsight.cli._options import ANNOTATING, READING, AtLeastOne, Names, command
from hdeepinsight.cli._stream import STREAMING, annotate_blocks

if TYPE_CHECKING:
    from mudata import MuData
    from rich.table import Table

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.data import Store

_MOST_LABELS = 40
_MOST_GENES = 10
_PAGES = (".html",)


@command("query", *ANNOTATING, "overwrite", **STREAMING)
def annotate(
    query: Path,
    *,
    out: Path | None = None,
    report: Path | None = None,
    key_added: str = "hdi",
    details: bool = False,
    fill: bool = True,
    stream: bool,
    resume: bool,
    part: tuple[int, int] | None,
    scheduler: str | None,
    overwrite: bool,
    **asked: Any,
) -> None:
    """Label every cell of a query, at every level.

    [b]hdeepinsight annotate query.h5ad --model my_model --out annotated.h5ad[/b]

    Without [b]--model[/b] the bundled model of human blood cells is used. What was done, and
    whether the query looks like what the model knows, is printed. The defaults are those of
    hdeepinsight.annotate in Python; [b]--fast[/b] labels each cell by itself. With
    [b]--markers blood[/b], or a list of yours, there is no model: marker genes label the cells.

    Options
    -------
    --out -o FILE
        Where the result goes: .h5ad or .zarr for a copy of the query with the labels added, .h5mu
        for a copy of a MuData, .csv for the labels alone. By default query.annotated.h5ad beside
        query.h5ad.
    --report FILE
        Write a page about the result too, .html.
    --key-added NAME
        Prefix of the columns that are added.
    --details
        Also write confidence and runner-up of every level, and all scores.
    --fill
        Repeat a label at the levels below it, or leave them missing.
    """
    kept = query.suffix if query.suffix in (".zarr", ".h5mu") else ".h5ad"
    out = out or _files.default_output(query, f".annotated{kept}")
    if stream or resume or part or scheduler or out.suffix == ".parquet":
        from hdeepinsight._distributed import connected

        how: dict[str, Any] = {"part": part, "resume": resume, "overwrite": overwrite}
        how["shown"] = {"fill": fill, "details": details}
        with connected(scheduler) as client:
            few = annotate_blocks(query, out, report=report, client=client, **how, **asked)
        _end(few, asked["strict"])
        return
    _files.check_output(out, source=query, overwrite=overwrite)
    if report is not None:
        _files.check_output(
            report, source=query, overwrite=overwrite, option="--report", formats=_PAGES
        )
    with step("Opening the query"):
        from hdeepinsight import hub

        store = _files.open_cells(query)
        write = _files.prepare_output(store, source=query, out=out, key_added=key_added)
    model, folder, reference = asked["model"], None, None
    if asked["markers"] is None:
        with step("Loading the model"):
            folder = hub.resolve_model(model)
            asked["model"] = reference = hub.load_annotator(folder)
    result = _annotated(store, **asked)
    with step(f"Writing {out}"):
        write(result, fill=fill, details=details)
    if report is not None:
        heading, named = f"Cell types of {query.name}", reference and model
        _write_page(result, report, title=heading, query=store, reference=reference, model=named)
    if folder in hub.bundled_folders().values():
        show(f"Model {model} is the bundled one, of human blood: see --model.")
    said = (result.input_report, result.gene_report, *result.decisions)
    texts = [in_options(str(each)) for each in said if each is not None]
    if asked["markers"] is not None:
        texts = [text.replace("model genes measured", "marker genes measured") for text in texts]
    show(*texts)
    if result.calibration_note:
        show(f"The probabilities are {result.calibration_note}.")
    show(_composition(result))
    if result.verdict is not None:
        text, light = Text(str(result.verdict)), result.verdict.light
        text.stylize(f"bold {light}", 0, len(light))
        show(text)
    show(f"Written to {out}" if report is None else f"Written to {out} and {report}")
    hints = []
    if out.suffix != ".csv":
        columns = [f"{key_added}_{level}" for level in (*result.taxonomy.level_names, "stop_label")]
        hints.append(f"The labels are in obs: {', '.join(columns)}.")
    if report is None:
        hints.append("With --report page.html there is a page with the evidence for them, too.")
    note(Text(" ".join(hints), style="dim"))
    _end(result, asked["strict"])


@command("query", *ANNOTATING, "labels_keys", "overwrite")
def report(
    query: Path,
    *,
    out: Path | None = None,
    clusters: str | None = None,
    embedding: str | None = None,
    title: str | None = None,
    labels_keys: list[str],
    overwrite: bool,
    **asked: Any,
) -> None:
    """Annotate a query, and write one page that says what came out and how far to trust it.

    The page needs no network. With labels that are known ([b]--labels-key[/b] or
    [b]--labels-keys[/b]) it compares with them; no other step reads them.

    [b]hdeepinsight report query.h5ad --model my_model --out report.html[/b]

    Options
    -------
    --out -o FILE
        Where the page goes, .html. By default query.report.html beside query.h5ad.
    --clusters COLUMN
        Column of obs with clusters; leiden and the like by default.
    --embedding NAME
        Coordinates in obsm to draw the cells at; by default X_umap and the like, or made where
        there are none.
    --title
        Heading of the page; the query's name by default.
    """
    out = out or _files.default_output(query, ".report.html")
    _files.check_output(out, source=query, overwrite=overwrite, formats=_PAGES)
    with step("Opening the query"):
        from hdeepinsight import hub, tl
        from hdeepinsight.taxonomy import column_nodes

        store = _files.open_cells(query)
        _files.require_columns(
            store.obs, [*([clusters] if clusters else []), *labels_keys], source=query
        )
        if embedding is not None and embedding not in store.obsm:
            held = ", ".join(sorted(store.obsm)) or "nothing"
            found = f"{query} has no {embedding!r} in obsm; it has {held}"
            raise ValueError(f"{found}. Name one of them with --embedding, or leave it out.")
    model, loaded, true_nodes = asked["model"], None, None
    if asked["markers"] is not None:
        asked["markers"] = scorer = tl.MarkerScorer(asked["markers"])
        true_nodes = column_nodes(scorer.taxonomy, store.obs, labels_keys) if labels_keys else None
    else:
        with step("Loading the model"):
            asked["model"] = loaded = hub.load_annotator(model)
            true_nodes = loaded.label_nodes(store, labels_keys=labels_keys) if labels_keys else None
    result = _annotated(store, **asked)
    place: Any = None if embedding is None else store.obsm[embedding]
    place = place() if callable(place) else place  # of a file it is read when asked for
    shown: dict[str, Any] = {"reference": loaded, "model": loaded and model, "query": store}
    shown |= {"title": title or f"Cell types of {query.name}", "true_nodes": true_nodes}
    shown |= {"embedding": place, "clusters": store.obs[clusters] if clusters else None}
    _write_page(result, out, **shown)
    show(f"Written to {out}")
    _end(result, asked["strict"])


def _annotated(
    store: Store | MuData, *, strict: bool, fast: bool, vote: str | None, **asked: Any
) -> Annotation:
    """Annotate as Python does."""
    import hdeepinsight as hdi

    off = {"adapt": "off", "refine": "off"} if fast else {}
    return hdi.annotate(store, vote=vote or False, **(asked | off))


def _write_page(result: Annotation, out: Path, **shown: Any) -> None:
    import hdeepinsight as hdi

    with step(f"Writing {out}"):
        hdi.report.write(result, out, **shown)


def _composition(result: Annotation) -> Table:
    """Return a table of the labels that occur, with their level columns."""
    levels = list(result.taxonomy.level_names)
    frame = result.labels[levels].astype(str).assign(confidence=result.confidence.to_numpy())
    frame.loc[result.stop_nodes == 0, "confidence"] = float("nan")  # of no label
    groups = frame.groupby(levels, sort=False)["confidence"]
    table = groups.agg(cells="size", share=lambda own: f"{len(own) / len(result):.1%}")
    table = table.assign(confidence=groups.mean()).reset_index()
    table = table.sort_values("cells", ascending=False, kind="stable")
    title = f"{counted(len(result), 'cell')} by label"
    shown = frame_table(table.head(_MOST_LABELS).set_index(levels[0]), title=title)
    if rest := len(table[_MOST_LABELS:]):
        shown.caption = f"and {counted(rest, 'more label')}"
    return shown


def _end(result: Annotation, strict: bool) -> None:
    """End with an exit code of its own where ``--strict`` asked for it; nothing is lost."""
    if strict and result.verdict is not None and result.verdict.light == "red":
        note(f"{result.verdict.sentences[0]} (--strict)", "Error")
        raise typer.Exit(RED)


@command("query", "model", "labels_keys", "threshold", *READING)
def evaluate(
    query: Path,
    model: str,
    *,
    unlabeled_category: str | None = None,
    json: bool = False,
    **asked: Any,
) -> None:
    """Compare a model's labels with known ones, level by level.

    Labels are read from the columns that the model was trained on, unless others are named.

    [b]hdeepinsight evaluate query.h5ad --model my_model --labels-key cell_type[/b]

    Options
    -------
    --unlabeled-category NAME
        Label that means: not known; the model's by default.
    --json
        Print JSON instead of a table.
    """
    with step("Loading the model"):
        from hdeepinsight import hub

        loaded = hub.load_annotator(model)
    with step("Annotating"):
        cells = _files.open_cells(query)
        found = loaded.evaluate(cells, unlabeled_category=unlabeled_category, **asked)
    if json:  # which has no NaN
        typer.echo(dumps(loads(dumps(found.to_dict()), parse_constant=lambda _: None), indent=2))
        return
    title = f"{counted(found.n_cells, 'cell')} with known labels"
    show(frame_table(found.levels, title=title), str(found).splitlines()[-1])


@command("query", "model", *READING, "overwrite")
def explain(
    query: Path,
    model: str,
    overwrite: bool,
    out: Path,
    nodes: Names = "",
    against: str | None = None,
    target: Literal["conditional", "joint", "logit"] = "conditional",
    background: Path | None = None,
    n_samples: AtLeastOne = 50,
    **asked: Any,
) -> None:
    """Say which genes speak for a type.

    [b]hdeepinsight explain query.h5ad --model my_model --nodes "CD4 T" --out genes.csv[/b]

    The table has one row per node and gene, over the cells that the model puts at the node: mean
    and mean absolute attribution, their spread, expression in these cells and in the background.

    Options
    -------
    --out -o FILE
        Where the rankings go, .csv.
    --nodes A,B,...
        Nodes of the taxonomy. By default each cell is explained for its own type.
    --against NAME
        Node that the others are contrasted with.
    --target
        What tells a node from its siblings ([b]conditional[/b]), from everything else
        ([b]joint[/b]), or its score before siblings are compared ([b]logit[/b]).
    --background FILE
        Cells to compare with; by default drawn from the mean profiles in the model.
    --n-samples
        Gradients per cell.
    """
    _files.check_output(out, source=query, overwrite=overwrite, formats=(".csv",))
    with step("Loading the model"):
        import pandas as pd

        from hdeepinsight import hub

        loaded = hub.load_model(model, with_types=True)
    with step("Explaining"):
        asked |= {"target": target, "background": background, "n_samples": n_samples}
        asked |= {"against": against, "keep_values": False}
        found = loaded.explain(query, nodes or None, **asked)
    n_cells = found.totals["own"].n_cells
    names = [name for name, n in zip(found.nodes, n_cells, strict=True) if n]
    if not names:
        raise ValueError(
            f"The model puts none of the {len(found.obs_names):,} cells at {', '.join(found.nodes)}"
            ". Annotate the query to see its types, or leave out --nodes."
        )
    rankings = {name: found.ranking(name) for name in names}
    with step(f"Writing {out}"), atomic_write(out) as path:
        pd.concat(rankings, names=["node", "gene"]).reset_index().to_csv(path, index=False)
    for name, table in rankings.items():
        top = table.rename_axis("gene").drop(columns="rank").head(_MOST_GENES)
        show(frame_table(top, title=name))
    show(repr(found), f"Written to {out}")
