"""Options that several commands have, written once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hdeepinsight.cli._boundary import UsageProblem

#: What the values of a matrix are taken for; see `hdeepinsight.data.open_counts`.
Scale = StrEnum(
    "Scale", {"auto": "auto", "counts": "counts", "recover": "recover", "as_is": "as_is"}
)
#: Whether a step is taken.
Step = StrEnum("Step", {"auto": "auto", "on": "on", "off": "off"})
#: How a leaf is chosen.
PathDecoder = StrEnum("PathDecoder", {"joint": "joint", "greedy": "greedy"})
#: Whether cells that no type supports are stopped further up.
Rejection = StrEnum("Rejection", {"auto": "auto", "off": "off"})

Query = Annotated[Path, typer.Argument(help="Query with raw counts, .h5ad or .zarr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out already.")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Folder of a trained model, the address of a published one (owner/name, "
        "s3://bucket/path), or pbmc, the bundled one.",
    ),
]
Layer = Annotated[
    str | None, typer.Option(metavar="NAME", help="Layer that holds the raw counts; X by default.")
]
ScaleOption = Annotated[
    Scale,
    typer.Option(
        help="What the values are: [b]auto[/b] finds out, and recovers counts from log-normalised "
        "values where they allow it; [b]counts[/b] takes whole numbers only; [b]recover[/b] also "
        "takes normalised values that were not logged; [b]as_is[/b] uses fractions unchanged."
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="Read .raw of the file, with its genes.")]
FoldCase = Annotated[
    bool,
    typer.Option("--fold-case", help="Match genes whatever their case, as mouse on human symbols."),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        "-l",
        metavar="COLUMN",
        help="Column of obs with the cell types. Give it again for one column a level, from "
        "coarse to fine.",
    ),
]
Levels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Columns of obs from coarse to fine, in one list: lineage,cell_type.",
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        min=0.5, max=1.0, help="A label stops at the deepest node that is at least this probable."
    ),
]
ToLeaves = Annotated[
    bool,
    typer.Option("--to-leaves", help="Never stop early: give every cell a leaf, however unclear."),
]

Adapt = Annotated[
    Step,
    typer.Option(
        help="Adapt the model to the query: [b]auto[/b] keeps that where markers that took no "
        "part speak for it, [b]on[/b] in any case."
    ),
]
Refine = Annotated[
    Step,
    typer.Option(
        help="Let neighbouring cells settle their labels together: [b]auto[/b] where the graph "
        "knows about labels, [b]on[/b] in any case."
    ),
]
RejectOption = Annotated[
    Rejection,
    typer.Option(
        "--reject",
        help="Stop cells that no type supports further up, or at Unknown, whatever their "
        "probabilities: [b]auto[/b]; [b]off[/b] leaves that to the threshold.",
    ),
]
BatchKey = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Batches of the query, for --adapt and --refine."),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="What the model was trained on; --adapt is then checked on it too."
    ),
]
DecoderOption = Annotated[
    PathDecoder,
    typer.Option(help="The most probable leaf, or the most probable child level by level."),
]


def label_columns(labels: list[str] | None, levels: str | None) -> list[str]:
    """Label columns from coarse to fine, from ``--labels`` and ``--levels``; may be empty.

    Examples
    --------
    >>> label_columns(None, "lineage, cell_type")
    ['lineage', 'cell_type']
    """
    if labels and levels:
        raise UsageProblem(
            "Both --labels and --levels were given. Leave one out: --labels cell_type names one "
            "column per level, --levels lineage,cell_type lists them."
        )
    named = [name.strip() for name in levels.split(",")] if levels else list(labels or ())
    if not all(named):
        raise UsageProblem(
            f"--levels must be a list of columns from coarse to fine, such as lineage,cell_type, "
            f"got {levels!r}, which has an empty name. Remove the stray comma."
        )
    return named
