"""``hdeepinsight annotate`` and ``report``: a query and a model in, labels or a page out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hdeepinsight._errors import counted
from hdeepinsight.cli import _options as opt
from hdeepinsight.cli._boundary import RED, in_options, running
from hdeepinsight.cli._console import errors, frame_table, show, step
from hdeepinsight.cli._files import (
    check_output,
    default_output,
    prepare_output,
    require_columns,
)

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation, Verdict
    from hdeepinsight.data import Store

_MOST_LABELS = 40
_PAGES = (".html",)
_LIGHTS = {"green": "bold green", "yellow": "bold yellow", "red": "bold red"}


@opt.annotating
def annotate(
    query: opt.Query,
    asked: Callable[[], dict[str, Any]],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where the result goes: .h5ad or .zarr for a copy of the query with the labels "
            "added, .csv for the labels alone. By default query.annotated.h5ad beside query.h5ad.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page about the result too, .html.")
    ] = None,
    key_added: Annotated[
        str, typer.Option(metavar="NAME", help="Prefix of the columns that are added.")
    ] = "hdi",
    details: Annotated[
        bool,
        typer.Option(
            "--details", help="Also write confidence and runner-up of every level, and all scores."
        ),
    ] = False,
    fill: Annotated[
        bool,
        typer.Option(
            "--fill/--no-fill",
            help="Repeat a label at the levels below it, or leave them missing.",
        ),
    ] = True,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Label every cell of a query, at every level.

    [b]hdeepinsight annotate query.h5ad --model my_model --out annotated.h5ad[/b]

    Without [b]--model[/b] the bundled model of human blood cells is used. What was done, and
    whether the query looks like what the model knows, is printed. The defaults are those of
    hdeepinsight.annotate in Python; [b]--fast[/b] labels each cell by itself.
    """
    with running(debug=debug):
        options = asked()
        strict = options.pop("strict")
        out = out or default_output(
            query, f".annotated{'.zarr' if query.suffix == '.zarr' else '.h5ad'}"
        )
        check_output(out, source=query, overwrite=overwrite)
        if report is not None:
            check_output(
                report, source=query, overwrite=overwrite, option="--report", formats=_PAGES
            )
        with step("Loading the model"):
            from hdeepinsight import hub
            from hdeepinsight.data import open_store

            store = open_store(query)
            write = prepare_output(store, source=query, out=out, key_added=key_added)
            folder = hub.resolve_model(options["model"])
            loaded = hub.load_model(folder)
        result = _annotated(store, loaded, options)
        with step(f"Writing {out}"):
            write(result, fill=fill, details=details)
        written = [out] if report is None else [out, report]
        if report is not None:
            _write_page(result, report, query, store, loaded, model=options["model"])
        if folder in hub.bundled_folders().values():
            show(f"Model {options['model']} is the bundled one, of human blood: see --model.")
        notes = (result.input_report, result.gene_report, *result.decisions)
        show(*(in_options(str(note)) for note in notes if note is not None))
        if result.calibration_note:
            show(f"The probabilities are {result.calibration_note}.")
        show(_composition(result))
        if result.verdict is not None:
            show(_coloured(result.verdict))
        show(f"Written to {' and '.join(map(str, written))}")
        _end(result, strict)


@opt.annotating
def report(
    query: opt.Query,
    asked: Callable[[], dict[str, Any]],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where the page goes, .html. By default query.report.html beside query.h5ad.",
        ),
    ] = None,
    clusters: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of obs with clusters; leiden and the like by default."
        ),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Coordinates in obsm to draw the cells at; by default X_umap and the like, or "
            "made where there are none.",
        ),
    ] = None,
    labels_key: opt.LabelsKey = None,
    labels_keys: opt.LabelsKeys = None,
    title: Annotated[
        str | None, typer.Option(help="Heading of the page; the query's name by default.")
    ] = None,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Annotate a query, and write one page that says what came out and how far to trust it.

    The page needs no network. With labels that are known ([b]--labels-key[/b] or
    [b]--labels-keys[/b]) it compares with them; no other step reads them.

    [b]hdeepinsight report query.h5ad --model my_model --out report.html[/b]
    """
    with running(debug=debug):
        options = asked()
        strict = options.pop("strict")
        out = out or default_output(query, ".report.html")
        check_output(out, source=query, overwrite=overwrite, formats=_PAGES)
        known = opt.label_columns(labels_key, labels_keys)
        with step("Loading the model"):
            from hdeepinsight import hub
            from hdeepinsight.data import open_store

            store = open_store(query)
            require_columns(store.obs, [*([clusters] if clusters else []), *known], source=query)
            if embedding is not None and embedding not in store.obsm:
                held = ", ".join(sorted(store.obsm)) or "nothing"
                raise ValueError(
                    f"{query} has no {embedding!r} in obsm; it has {held}. Name one of them with "
                    "--embedding, or leave it out."
                )
            loaded = hub.load_model(options["model"])
            true_nodes = loaded.label_nodes(store, labels_keys=known) if known else None
        result = _annotated(store, loaded, options)
        _write_page(
            result,
            out,
            query,
            store,
            loaded,
            title=title,
            model=options["model"],
            clusters=store.obs[clusters] if clusters else None,
            embedding=None if embedding is None else store.obsm[embedding](),
            true_nodes=true_nodes,
        )
        show(f"Written to {out}")
        _end(result, strict)


def _annotated(store: Store, model: Any, options: dict[str, Any]) -> Annotation:
    """Annotate a file as Python does."""
    import hdeepinsight as hdi

    return hdi.annotate(store, **{**options, "model": model})


def _write_page(
    result: Annotation,
    out: Path,
    query: Path,
    store: Store,
    reference: Any,
    *,
    title: str | None = None,
    **shown: Any,
) -> None:
    import hdeepinsight as hdi

    with step(f"Writing {out}"):
        heading = title or f"Cell types of {query.name}"
        hdi.report.write(result, out, query=store, reference=reference, title=heading, **shown)


def _composition(result: Annotation) -> Any:
    """Return a table of the labels that occur, with their level columns."""
    import pandas as pd

    levels = list(result.taxonomy.level_names)
    frame = result.labels[levels].astype(str).assign(confidence=result.confidence.to_numpy())
    groups = frame.groupby(levels, sort=False)["confidence"]
    table = pd.DataFrame({"cells": groups.size(), "confidence": groups.mean()}).reset_index()
    table.insert(len(levels) + 1, "share", table["cells"] / len(result))
    table = table.sort_values("cells", ascending=False, kind="stable")
    title = f"{counted(len(result), 'cell')} by label"
    shown = frame_table(table.head(_MOST_LABELS).set_index(levels[0]), title=title)
    if rest := len(table[_MOST_LABELS:]):
        shown.caption = f"and {rest:,} more labels"
    return shown


def _coloured(verdict: Verdict) -> Text:
    text = Text(str(verdict))
    text.stylize(_LIGHTS[verdict.light], 0, len(verdict.light))
    return text


def _end(result: Annotation, strict: bool) -> None:
    """End with an exit code of its own where ``--strict`` asked for it; nothing is lost."""
    if strict and result.verdict is not None and result.verdict.light == "red":
        errors().print(Text(f"Error: {result.verdict.sentences[0]} (--strict)", style="bold red"))
        raise typer.Exit(RED)
