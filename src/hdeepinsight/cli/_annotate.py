"""``hdeepinsight annotate``: a query and a model in, labels out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hdeepinsight.cli._boundary import UsageProblem, running
from hdeepinsight.cli._console import results, step
from hdeepinsight.cli._copy import write_annotation
from hdeepinsight.cli._files import check_output
from hdeepinsight.cli._options import (
    Adapt,
    BatchKey,
    Debug,
    DecoderOption,
    FoldCase,
    Layer,
    Model,
    Overwrite,
    PathDecoder,
    Query,
    Raw,
    Reference,
    Refine,
    Scale,
    ScaleOption,
    Step,
    Threshold,
    ToLeaves,
)
from hdeepinsight.cli._page import check_page, write_page
from hdeepinsight.cli._show import label_table, notes_of

__all__ = ["annotate"]


def annotate(
    query: Query,
    model: Model = "pbmc",
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
    adapt: Adapt = Step.off,
    refine: Refine = Step.off,
    batch_key: BatchKey = None,
    reference: Reference = None,
    threshold: Threshold = 0.5,
    to_leaves: ToLeaves = False,
    decoder: DecoderOption = PathDecoder.joint,
    layer: Layer = None,
    raw: Raw = False,
    scale: ScaleOption = Scale.auto,
    fold_case: FoldCase = False,
    key_added: Annotated[
        str, typer.Option(metavar="NAME", help="Prefix of the columns that are added.")
    ] = "hdi",
    overwrite: Overwrite = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page about the result too, .html."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Label every cell of a query, at every level.

    [b]hdeepinsight annotate query.h5ad --model my_model --out annotated.h5ad[/b]

    Without [b]--model[/b] the bundled model of human blood cells is used.

    With [b]--adapt auto --refine auto[/b] what was done and why is printed. Refining reads the
    cells into memory; without it, memory does not grow with the number of cells.
    """
    with running(debug=debug):
        out = out or query.with_suffix(f".annotated{query.suffix}")
        check_output(out, source=query, overwrite=overwrite)
        if report is not None:
            check_page(report, source=query, overwrite=overwrite)
        _check_key(key_added)
        with step("Loading the model"):
            import hdeepinsight as hdi
            from hdeepinsight.data import open_store
            from hdeepinsight.hub import bundled_folders

            obs = open_store(query).obs
            folder = hdi.hub.resolve_model(model)
            loaded = hdi.SCHDeepInsight.load(folder, adata=False)
        with step("Annotating"):
            result = hdi.annotate(
                query,
                loaded,
                adapt=adapt.value,
                refine=refine.value,
                batch_key=batch_key,
                reference=reference,
                decoder=decoder.value,
                layer=layer,
                use_raw=raw,
                scale=scale.value,
                fold_case=fold_case,
                threshold=None if to_leaves else threshold,
            )
        with step(f"Writing {out}"):
            write_annotation(result, source=query, out=out, key_added=key_added, obs=obs)
        if report is not None:
            write_page(result, report, query=query, model=model)
        console = results()
        if folder in bundled_folders().values():
            console.print(Text(f"Model {model} is the bundled one, of human blood: see --model."))
        for note in notes_of(result):
            console.print(note)
        for decision in result.decisions:
            console.print(Text(str(decision)))
        console.print(label_table(result))
        written = [out] if report is None else [out, report]
        console.print(Text(f"Written to {' and '.join(map(str, written))}"))


def _check_key(key_added: str) -> None:
    if not key_added or "/" in key_added:
        msg = (
            f"--key-added {key_added!r} cannot be a name in a file. Valid is text without a "
            "slash, such as hdi. Choose another."
        )
        raise UsageProblem(msg)
