"""``hdeepinsight explain``: a query and a model in, a ranking of genes out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hdeepinsight.cli._boundary import running
from hdeepinsight.cli._console import results, step
from hdeepinsight.cli._files import check_output, written_at_once
from hdeepinsight.cli._options import (
    Debug,
    FoldCase,
    Layer,
    Model,
    Overwrite,
    Query,
    Raw,
    Scale,
    ScaleOption,
)
from hdeepinsight.cli._show import frame_table

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.explanation import Explanation

__all__ = ["explain"]

_SHOWN = 10


class TargetChoice(StrEnum):
    """What of a node is explained; see `SCHDeepInsight.explain`."""

    conditional = "conditional"
    joint = "joint"
    logit = "logit"


def explain(
    query: Query,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Where the rankings go, .csv."),
    ],
    model: Model = "pbmc",
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Node of the taxonomy; give it again for more. By default each cell is explained "
            "for its own type.",
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="NAME", help="Node that the others are contrasted with.")
    ] = None,
    target: Annotated[
        TargetChoice,
        typer.Option(
            help="What tells a node from its siblings ([b]conditional[/b]), from everything else "
            "([b]joint[/b]), or its score before siblings are compared ([b]logit[/b])."
        ),
    ] = TargetChoice.conditional,
    background: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Cells to compare with; by default drawn from the mean profiles in the model.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Gradients a cell.")] = 50,
    layer: Layer = None,
    raw: Raw = False,
    scale: ScaleOption = Scale.auto,
    fold_case: FoldCase = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Say which genes speak for a type.

    [b]hdeepinsight explain query.h5ad --model my_model --node "CD4 T" --out genes.csv[/b]

    The table has one row a node and gene, over the cells that the model puts at the node: mean and
    mean absolute attribution, their spread, expression in these cells and in the background.
    """
    with running(debug=debug):
        check_output(out, source=query, overwrite=overwrite, formats=(".csv",))
        with step("Loading the model"):
            from hdeepinsight.hub import load_model

            loaded = load_model(model)
        with step("Explaining"):
            found = loaded.explain(
                query,
                node or None,
                against=against,
                target=target.value,
                background=background,
                n_samples=samples,
                keep_values=False,
                layer=layer,
                use_raw=raw,
                scale=scale.value,
                fold_case=fold_case,
            )
            rankings = _rankings(found)
        with step(f"Writing {out}"), written_at_once(out) as path:
            _as_one(rankings).to_csv(path, index=False)
        console = results()
        for name, table in rankings.items():
            top = table.rename_axis("gene").drop(columns="rank").head(_SHOWN)
            console.print(frame_table(top, title=name))
        console.print(Text(repr(found)))
        console.print(Text(f"Written to {out}"))


def _rankings(found: Explanation) -> dict[str, pd.DataFrame]:
    """Rank the genes of every node that some cell is at; raises ``ValueError`` if there is none."""
    n_cells = found.totals["own"].n_cells
    names = [name for name, n in zip(found.nodes, n_cells, strict=True) if n]
    if not names:
        msg = (
            f"The model puts none of the {len(found.obs_names):,} cells at {', '.join(found.nodes)}"
            ". Valid are types that are in the query. Annotate it first, or leave out --node."
        )
        raise ValueError(msg)
    return {name: found.ranking(name) for name in names}


def _as_one(rankings: dict[str, pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(rankings, names=["node", "gene"]).reset_index()
