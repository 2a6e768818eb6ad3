"""Options that several commands have, written once, under the names that Python has for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

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


def _probability(text: str) -> float | str:
    """Read a threshold; ``none`` stays a word, as no option can be `None` on purpose."""
    if text.lower() == "none":
        return "none"
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 1.0:
        raise typer.BadParameter(f"it must be a number from 0.5 to 1, or none, got {text!r}.")
    return value


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
UseRaw = Annotated[bool, typer.Option("--use-raw", help="Read .raw of the file, with its genes.")]
FoldCase = Annotated[
    bool,
    typer.Option("--fold-case", help="Match genes whatever their case, as mouse on human symbols."),
]
LabelsKey = Annotated[
    list[str] | None,
    typer.Option(
        "--labels-key",
        "-l",
        metavar="COLUMN",
        help="Column of obs with the cell types. Give it again for one column per level, from "
        "coarse to fine.",
    ),
]
LabelsKeys = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Columns of obs from coarse to fine, in one list: lineage,cell_type.",
    ),
]
BatchKey = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column of obs with the batch (sample, donor)."),
]
Threshold = Annotated[
    Any,
    typer.Option(
        parser=_probability,
        metavar="P",
        help="A label stops at the deepest node that is at least this probable, from 0.5 to 1; "
        "[b]none[/b] leaves that out; with [b]--reject off[/b] every cell gets a leaf, however "
        "unclear.",
    ),
]


def threshold_of(given: float | str) -> float | None:
    """Return what Python takes as ``threshold``."""
    return None if given == "none" else float(given)


def annotation_options(
    model: Model = "pbmc",
    adapt: Annotated[
        Step,
        typer.Option(
            help="Adapt the model to the query: [b]auto[/b] keeps that where independent marker "
            "genes favour it, [b]on[/b] in any case."
        ),
    ] = Step.auto,
    refine: Annotated[
        Step,
        typer.Option(
            help="Smooth labels over the graph of neighbouring cells: [b]auto[/b] where the graph "
            "knows about labels, [b]on[/b] in any case. It reads the cells into memory."
        ),
    ] = Step.auto,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Neither adapt nor refine: each cell by itself, in memory that does not grow with "
            "their number.",
        ),
    ] = False,
    vote: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Let the clusters of this column vote (majority voting); [b]auto[/b] clusters the "
            "cells itself.",
        ),
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Only these types, at any level, as for cells that were sorted."
        ),
    ] = None,
    exclude: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="All types but these, at any level.")
    ] = None,
    batch_key: BatchKey = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What the model was trained on; --adapt is then checked on it too."
        ),
    ] = None,
    threshold: Threshold = "0.5",
    reject: Annotated[
        Rejection,
        typer.Option(
            help="Stop cells that no type supports further up, or at Unknown, whatever their "
            "probabilities: [b]auto[/b]; [b]off[/b] leaves that to the threshold."
        ),
    ] = Rejection.auto,
    decoder: Annotated[
        PathDecoder,
        typer.Option(help="The most probable leaf, or the most probable child level by level."),
    ] = PathDecoder.joint,
    layer: Layer = None,
    use_raw: UseRaw = False,
    scale: ScaleOption = Scale.auto,
    fold_case: FoldCase = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="End with exit code 3 if the query does not look like what the model knows (a red "
            "verdict). The results are written all the same.",
        ),
    ] = False,
) -> dict[str, Any]:
    """Return the arguments of `hdeepinsight.annotate`, and ``strict``.

    Its parameters are options of every command that annotates; see `annotating`.
    """
    off = Step.off if fast else None
    return {
        "model": model,
        "adapt": (off or adapt).value,
        "refine": (off or refine).value,
        "vote": vote or False,
        "types": listed(types, "--types") or None,
        "exclude": listed(exclude, "--exclude"),
        "batch_key": batch_key,
        "reference": reference,
        "threshold": threshold_of(threshold),
        "reject": reject.value,
        "decoder": decoder.value,
        "layer": layer,
        "use_raw": use_raw,
        "scale": scale.value,
        "fold_case": fold_case,
        "strict": strict,
    }


def annotating(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of `annotation_options`, in its argument ``asked``."""
    own = dict(inspect.signature(command, eval_str=True).parameters)
    shared = inspect.signature(annotation_options, eval_str=True).parameters
    del own["asked"]
    debug = own.pop("debug")

    @wraps(command)
    def run(**given: Any) -> None:
        asked = {name: given.pop(name) for name in shared}
        command(asked=lambda: annotation_options(**asked), **given)

    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in (*own.values(), *shared.values(), debug)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    del run.__wrapped__  # its signature is another one
    return run


def listed(text: str | None, option: str) -> list[str]:
    """Return the names in a list with commas; none without one.

    Examples
    --------
    >>> listed("lineage, cell_type", "--labels-keys")
    ['lineage', 'cell_type']
    """
    names = [name.strip() for name in text.split(",")] if text else []
    if not all(names):
        raise UsageProblem(
            f"{option} must be a list of names with commas between them, got {text!r}, which has "
            "an empty name. Remove the stray comma."
        )
    return names


def label_columns(labels_key: list[str] | None, labels_keys: str | None) -> list[str]:
    """Label columns from coarse to fine, from ``--labels-key`` and ``--labels-keys``.

    Examples
    --------
    >>> label_columns(None, "lineage, cell_type")
    ['lineage', 'cell_type']
    """
    if labels_key and labels_keys:
        raise UsageProblem(
            "Both --labels-key and --labels-keys were given. Leave one out: --labels-key cell_type "
            "names one column per level, --labels-keys lineage,cell_type lists them."
        )
    return listed(labels_keys, "--labels-keys") or list(labels_key or ())
