"""``hdeepinsight annotate`` and ``report``: a query and a model in, labels or a page out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdeepinsight.cli import _options as opt
from hdeepinsight.cli._boundary import UsageProblem, running
from hdeepinsight.cli._console import frame_table, show, step
from hdeepinsight.cli._files import (
    check_additions,
    check_output,
    default_output,
    require_columns,
    write_annotation,
)

if TYPE_CHECKING:
    pass

_MOST_LABELS = 40
_PAGES = (".html",)


def annotate(
    query: opt.Query,
    model: opt.Model = "pbmc",
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
    adapt: opt.Adapt = opt.Step.off,
    refine: opt.Refine = opt.Step.off,
    batch_key: opt.BatchKey = None,
    reference: opt.Reference = None,
    threshold: opt.Threshold = 0.5,
    to_leaves: opt.ToLeaves = False,
    decoder: opt.DecoderOption = opt.PathDecoder.joint,
    reject: opt.RejectOption = opt.Rejection.auto,
    layer: opt.Layer = None,
    raw: opt.Raw = False,
    scale: opt.ScaleOption = opt.Scale.auto,
    fold_case: opt.FoldCase = False,
    key_added: Annotated[
        str, typer.Option(metavar="NAME", help="Prefix of the columns that are added.")
    ] = "hdi",
    overwrite: opt.Overwrite = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page about the result too, .html.")
    ] = None,
    debug: opt.Debug = False,
) -> None:
    """Label every cell of a query, at every level.

    [b]hdeepinsight annotate query.h5ad --model my_model --out annotated.h5ad[/b]

    Without [b]--model[/b] the bundled model of human blood cells is used.

    With [b]--adapt auto --refine auto[/b] what was done and why is printed. Refining reads the
    cells into memory; without it, memory does not grow with the number of cells.
    """
    with running(debug=debug):
        out = out or default_output(
            query, f".annotated{'.zarr' if query.suffix == '.zarr' else '.h5ad'}"
        )
        check_output(out, source=query, overwrite=overwrite)
        if report is not None:
            check_output(
                report, source=query, overwrite=overwrite, option="--report", formats=_PAGES
            )
        if not key_added or "/" in key_added:
            raise UsageProblem(
                f"--key-added must be a name that a file can hold, without a slash, such as hdi, "
                f"got {key_added!r}. Choose another."
            )
        with step("Loading the model"):
            import hdeepinsight as hdi
            from hdeepinsight import hub
            from hdeepinsight.data import open_store

            store = open_store(query)
            check_additions(store, source=query, out=out, key_added=key_added)
            folder = hub.resolve_model(model)
            loaded = hub.load_model(folder)
        with step("Annotating"):
            result = hdi.annotate(
                query,
                loaded,
                adapt=adapt.value,
                refine=refine.value,
                batch_key=batch_key,
                reference=reference,
                decoder=decoder.value,
                reject=reject.value,
                layer=layer,
                use_raw=raw,
                scale=scale.value,
                fold_case=fold_case,
                threshold=None if to_leaves else threshold,
            )
        with step(f"Writing {out}"):
            write_annotation(result, source=query, out=out, key_added=key_added, obs=store.obs)
        if report is not None:
            with step(f"Writing {report}"):
                hdi.report.write(
                    result,
                    report,
                    query=query,
                    reference=loaded,
                    title=f"Cell types of {query.name}",
                    model=model,
                )
        if folder in hub.bundled_folders().values():
            show(f"Model {model} is the bundled one, of human blood: see --model.")
        notes = (result.input_report, result.gene_report, *result.decisions)
        show(*(note for note in notes if note is not None))
        if result.calibration_note:
            show(f"The probabilities are {result.calibration_note}.")
        written = [out] if report is None else [out, report]
        summary = result.summary()
        table = frame_table(summary.head(_MOST_LABELS), title=f"{len(result):,} cells by label")
        if rest := len(summary[_MOST_LABELS:]):
            table.caption = f"and {rest:,} more labels"
        show(table, f"Written to {' and '.join(map(str, written))}")


def report(
    query: opt.Query,
    model: opt.Model = "pbmc",
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
    labels: opt.Labels = None,
    levels: opt.Levels = None,
    title: Annotated[
        str | None, typer.Option(help="Heading of the page; the query's name by default.")
    ] = None,
    adapt: opt.Adapt = opt.Step.off,
    refine: opt.Refine = opt.Step.off,
    batch_key: opt.BatchKey = None,
    reference: opt.Reference = None,
    threshold: opt.Threshold = 0.5,
    to_leaves: opt.ToLeaves = False,
    decoder: opt.DecoderOption = opt.PathDecoder.joint,
    reject: opt.RejectOption = opt.Rejection.auto,
    layer: opt.Layer = None,
    raw: opt.Raw = False,
    scale: opt.ScaleOption = opt.Scale.auto,
    fold_case: opt.FoldCase = False,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Annotate a query, and write one page that says what came out and how far to trust it.

    The page needs no network. With labels that are known ([b]--labels[/b] or [b]--levels[/b]) it
    compares with them; no other step reads them.

    [b]hdeepinsight report query.h5ad --model my_model --out report.html[/b]
    """
    with running(debug=debug):
        out = out or default_output(query, ".report.html")
        check_output(out, source=query, overwrite=overwrite, formats=_PAGES)
        known = opt.label_columns(labels, levels)
        with step("Loading the model"):
            import hdeepinsight as hdi
            from hdeepinsight import hub
            from hdeepinsight.data import open_store

            store = open_store(query)
            obs = store.obs
            require_columns(obs, [*([clusters] if clusters else []), *known], source=query)
            if embedding is not None and embedding not in store.obsm:
                held = ", ".join(sorted(store.obsm)) or "nothing"
                raise ValueError(
                    f"{query} has no {embedding!r} in obsm; it has {held}. Name one of them with "
                    "--embedding, or leave it out."
                )
            loaded = hub.load_model(model)
            true_nodes = loaded.label_nodes(query, labels_keys=known) if known else None
        with step("Annotating"):
            result = hdi.annotate(
                query,
                loaded,
                adapt=adapt.value,
                refine=refine.value,
                batch_key=batch_key,
                reference=reference,
                decoder=decoder.value,
                reject=reject.value,
                layer=layer,
                use_raw=raw,
                scale=scale.value,
                fold_case=fold_case,
                threshold=None if to_leaves else threshold,
            )
        with step(f"Writing {out}"):
            hdi.report.write(
                result,
                out,
                query=query,
                reference=loaded,
                title=title or f"Cell types of {query.name}",
                model=model,
                clusters=obs[clusters] if clusters else None,
                embedding=None if embedding is None else store.obsm[embedding](),
                true_nodes=true_nodes,
            )
        show(f"Written to {out}")
