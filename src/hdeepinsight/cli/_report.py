"""``hdeepinsight report``: a query and a model in, one page about the labels out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hdeepinsight.cli._boundary import running
from hdeepinsight.cli._console import results, step
from hdeepinsight.cli._options import (
    Adapt,
    BatchKey,
    Debug,
    DecoderOption,
    FoldCase,
    Labels,
    Layer,
    Levels,
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
    label_columns,
)
from hdeepinsight.cli._page import CellFacts, check_page, write_page

__all__ = ["report"]


def report(
    query: Query,
    model: Model = "pbmc",
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
        typer.Option(metavar="COLUMN", help="Column of obs with clusters, for a table of them."),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Coordinates in obsm to draw the cells at; X_umap by default, if it is there.",
        ),
    ] = None,
    labels: Labels = None,
    levels: Levels = None,
    title: Annotated[
        str | None, typer.Option(help="Heading of the page; the query's name by default.")
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
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Annotate a query, and write one page that says what came out and how far to trust it.

    The page needs no network. With labels that are known ([b]--labels[/b] or [b]--levels[/b]) it
    compares with them; no other step reads them.

    [b]hdeepinsight report query.h5ad --model my_model --out report.html[/b]
    """
    with running(debug=debug):
        out = out or query.with_suffix(".report.html")
        check_page(out, source=query, overwrite=overwrite, option="--out")
        known = label_columns(labels, levels)
        with step("Loading the model"):
            import hdeepinsight as hdi
            from hdeepinsight.hub import load_model

            loaded = load_model(model)
            facts = CellFacts.read(query, clusters, embedding, known, loaded)
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
        write_page(result, out, query=query, model=model, title=title, facts=facts)
        results().print(Text(f"Written to {out}"))
