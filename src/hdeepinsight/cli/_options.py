"""Build command line options from the signatures and docstrings of functions."""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from hdeepinsight.cli._console import running


def _probability(text: str) -> float | None:
    try:
        value = None if text.lower() == "none" else float(text)
    except ValueError:
        value = 0.0
    if value is not None and not 0.5 <= value <= 1.0:
        raise typer.BadParameter(f"it must be a number from 0.5 to 1, or none, got {text!r}.")
    return value


def _names(text: str) -> list[str]:
    """Parse comma-separated names; names that contain a comma are quoted."""
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not all(names):
        raise typer.BadParameter(
            f"it must be a list of names separated by commas, got {text!r}, which has an empty "
            "name. Remove the stray comma."
        )
    return names


#: Annotations of parameters that typer needs a parser or a range for.
Names = Annotated[Any, {"parser": _names}]
NamesAgain = Annotated[list[Any], {"parser": _names}]
Probability = Annotated[Any, {"parser": _probability}]
Natural = Annotated[int, {"min": 0}]
AtLeastOne = Annotated[int, {"min": 1}]
Switch = Literal["auto", "on", "off"]

_SECTION = re.compile(r"^(.+)\n-+\n", re.MULTILINE)


def options_of(function: Callable[..., None]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function as keyword options for typer.

    Types and defaults come from the signature. Each section of the docstring is a panel of the
    help, with one entry per option: a line ``--name -n METAVAR``, or ``name METAVAR`` for a
    positional argument, followed by its description.
    """
    signature = inspect.signature(function, eval_str=True).parameters
    _, *sections = _SECTION.split(inspect.getdoc(function) or "")
    options = {}
    for panel, text in zip(sections[::2], sections[1::2], strict=True):
        for head, *about in (entry.split("\n") for entry in re.split(r"\n(?=\S)", text.strip())):
            name, *others = head.split()
            flags = [word for word in (name, *others) if word.startswith("-")]
            parameter = signature[name.strip("-").replace("-", "_")]
            kind, more = parameter.annotation, {}
            if hasattr(kind, "__metadata__"):
                kind, more = kind.__origin__, kind.__metadata__[0]
            if kind is bool and parameter.default is True:
                flags[0] += f"/--no-{flags[0][2:]}"
            settings: dict[str, Any] = {"help": " ".join(map(str.strip, about)), **more}
            settings["metavar"] = next((word for word in others if word not in flags), None)
            settings["rich_help_panel"] = None if panel == "Options" else panel
            info = typer.Option(*flags, **settings) if flags else typer.Argument(**settings)
            annotation = Annotated[kind, info]  # type: ignore[valid-type]
            options[parameter.name] = parameter.replace(
                kind=parameter.KEYWORD_ONLY, annotation=annotation
            )
    return options


def command(
    *shared: str, **more: inspect.Parameter
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function into a command with its own options and the named ones of `OPTIONS`.

    Errors are printed as a paragraph and end with an exit code; see `running`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(*, debug: bool, **given: Any) -> None:
            with running(debug=debug):
                if listed := given.get("labels_keys"):  # one list per use of the option
                    given["labels_keys"] = list(chain.from_iterable(listed))
                # Shells leave ~ as it is after --option=.
                paths = {key: x.expanduser() for key, x in given.items() if isinstance(x, Path)}
                function(**given | paths)

        names = [name for name in (*shared, "debug") if name in OPTIONS]  # none with python -OO
        shown = options_of(function) | more | {name: OPTIONS[name] for name in names}
        run.__signature__ = inspect.Signature(list(shown.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: each.annotation for name, each in shown.items()}
        run.__name__ = function.__name__
        # Paragraphs are joined, so that the terminal wraps the lines.
        text = _SECTION.split(inspect.getdoc(function) or "")[0].strip()
        run.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
        return run

    return decorate


def _shared(
    query: Path,
    model: str = "pbmc",
    markers: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    debug: bool = False,
    labels_keys: NamesAgain = [],  # noqa: B006
    adapt: Switch = "auto",
    refine: Switch = "auto",
    fast: bool = False,
    vote: str | None = None,
    batch_key: str | None = None,
    types: Names = None,
    exclude: Names = "",
    threshold: Probability = "0.5",
    reject: Literal["auto", "off"] = "auto",
    decoder: Literal["joint", "greedy"] = "joint",
    layer: str | None = None,
    use_raw: bool = False,
    scale: Literal["auto", "counts", "recover", "as_is"] = "auto",
    fold_case: bool = False,
) -> None:
    """Declare the options shared by several commands, with the names and defaults of Python.

    Options
    -------
    query QUERY
        Query with raw counts: .h5ad, .zarr, .h5 (10x), .loom, a folder with a .mtx, or a table.
    --model -m MODEL
        Folder of a trained model, address of a published model (owner/name, s3://bucket/path), or
        pbmc (blood) or immune (blood and bone marrow), the bundled models.
    --markers LIST
        Label by marker genes instead of a model: [b]blood[/b], the list that comes with the
        package, or a file (.csv or .tsv with the columns type and gene, or .gmt).
    --strict
        Exit with code 3 if the query does not resemble the model's reference (a red verdict). The
        results are written nevertheless.
    --overwrite
        Replace an existing output.
    --debug
        Show the traceback of an error.
    --labels-keys --labels-key -l A,B,...
        Column of obs with the cell types, or one column per level from coarse to fine:
        lineage,cell_type. Can be repeated.

    Steps
    -----
    --adapt
        Adapt the model to the query: [b]auto[/b] if independent marker genes support it,
        [b]on[/b] always.
    --refine
        Smooth labels over the nearest neighbour graph: [b]auto[/b] if neighbours predict labels,
        [b]on[/b] always. Reads all cells into memory.
    --fast
        Neither adapt nor refine: label each cell independently, in constant memory.
    --vote COLUMN
        Assign the majority label of each cluster in this column; [b]auto[/b] clusters the cells
        first.
    --batch-key COLUMN
        Column of obs with the batch (sample, donor).

    Labels
    ------
    --types A,B,...
        Allow only these types, at any level, for example in sorted cells. Put double quotes around
        a name with a comma: '"CD4-positive, alpha-beta T cell",B'.
    --exclude A,B,...
        Rule out these types, at any level.
    --threshold P
        Label each cell with the deepest node that has at least this probability, from 0.5 to 1;
        [b]none[/b] disables this. With [b]none[/b] and [b]--reject off[/b], every cell is labelled
        down to a leaf.
    --reject
        [b]auto[/b] labels cells that no type supports at a higher level, or as Unknown, whatever
        their probability; [b]off[/b] applies the threshold alone.
    --decoder
        Choose the most probable leaf ([b]joint[/b]), or the most probable child level by level
        ([b]greedy[/b]).

    How the data is read
    --------------------
    --layer NAME
        Layer with the raw counts. Default: X.
    --use-raw
        Read .raw, with its genes.
    --scale
        Scale of the values: [b]auto[/b] detects it, and recovers counts from log-normalised values
        if possible; [b]counts[/b] accepts whole numbers only; [b]recover[/b] also accepts
        normalised values without logarithm; [b]as_is[/b] uses fractional values unchanged.
    --fold-case
        Ignore case when matching genes, for example mouse and human symbols.
    """


OPTIONS: Final = options_of(_shared)
READING: Final = ("layer", "use_raw", "scale", "fold_case")
#: Arguments of `hdeepinsight.annotate`, and ``strict`` and ``fast`` of the command line.
ANNOTATING: Final = (
    *("model", "markers", "strict", "adapt", "refine", "fast", "vote", "batch_key"),
    *("types", "exclude", "threshold", "reject", "decoder", *READING),
)
