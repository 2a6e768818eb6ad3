"""Options of the commands: each is written once, in the signature and docstring of a function."""

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
    """Read names with commas between them; one that has a comma itself stands in quotes."""
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not all(names):
        raise typer.BadParameter(
            f"it must be a list of names with commas between them, got {text!r}, which has an "
            "empty name. Remove the stray comma."
        )
    return names


#: Types of options that typer has to be told more of.
Names = Annotated[Any, {"parser": _names}]
NamesAgain = Annotated[list[Any], {"parser": _names}]
Probability = Annotated[Any, {"parser": _probability}]
Natural = Annotated[int, {"min": 0}]
AtLeastOne = Annotated[int, {"min": 1}]
Switch = Literal["auto", "on", "off"]

_SECTION = re.compile(r"^(.+)\n-+\n", re.MULTILINE)


def options_of(function: Callable[..., None]) -> dict[str, inspect.Parameter]:
    """Return the options of a function, as keywords in the form that typer reads.

    Types and defaults are those of its signature. Sections of its docstring are panels of the help,
    with an entry for each option: a line ``--name -n METAVAR``, or ``name METAVAR`` for what is
    given without a name, and below it what it means.
    """
    signature = inspect.signature(function, eval_str=True).parameters
    _, *sections = _SECTION.split(inspect.getdoc(function) or "")
    options = {}
    for panel, text in zip(sections[::2], sections[1::2], strict=True):
        for head, *about in (entry.split("\n") for entry in re.split(r"\n(?=\S)", text.strip())):
            name, *others = head.split()
            words = [word for word in (name, *others) if word.startswith("-")]
            known = signature[name.strip("-").replace("-", "_")]
            kind, more = known.annotation, {}
            if hasattr(kind, "__metadata__"):
                kind, more = kind.__origin__, kind.__metadata__[0]
            if kind is bool and known.default is True:
                words[0] += f"/--no-{words[0][2:]}"
            settings: dict[str, Any] = {"help": " ".join(map(str.strip, about)), **more}
            settings["metavar"] = next((word for word in others if word not in words), None)
            settings["rich_help_panel"] = None if panel == "Options" else panel
            info = typer.Option(*words, **settings) if words else typer.Argument(**settings)
            form = Annotated[kind, info]  # type: ignore[valid-type]
            options[known.name] = known.replace(kind=known.KEYWORD_ONLY, annotation=form)
    return options


def command(
    *shared: str, **more: inspect.Parameter
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: with its own options, and with those of `OPTIONS` by name.

    Errors in it end as a paragraph and an exit code; see `running`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(*, debug: bool, **given: Any) -> None:
            with running(debug=debug):
                if listed := given.get("labels_keys"):  # one list per time that it was given
                    given["labels_keys"] = list(chain.from_iterable(listed))
                function(**given)

        names = [name for name in (*shared, "debug") if name in OPTIONS]  # none by python -OO
        shown = options_of(function) | more | {name: OPTIONS[name] for name in names}
        run.__signature__ = inspect.Signature(list(shown.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: each.annotation for name, each in shown.items()}
        run.__name__ = function.__name__
        # Lines of a paragraph are broken where the terminal ends, not where the source does.
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
    reference: Path | None = None,
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
    """List the options that several commands have, under the names and with the defaults of Python.

    Options
    -------
    query QUERY
        Query with raw counts: .h5ad, .zarr, .h5 of 10x, .loom, a folder with a .mtx, or a table.
    --model -m MODEL
        Folder of a trained model, the address of a published one (owner/name, s3://bucket/path),
        or pbmc, the bundled one.
    --markers LIST
        Label by marker genes instead, without a model or a reference: [b]blood[/b], the list that
        comes with the package, or a file of yours (.csv or .tsv with the columns type and gene,
        .gmt).
    --strict
        End with exit code 3 if the query does not look like what the model knows (a red verdict).
        The results are written all the same.
    --overwrite
        Replace what is at --out already.
    --debug
        Show the traceback of an error.
    --labels-keys --labels-key -l A,B,...
        Column of obs with the cell types, or one per level from coarse to fine: lineage,cell_type.
        It may be given again for each.

    Steps
    -----
    --adapt
        Adapt the model to the query: [b]auto[/b] keeps that where independent marker genes favour
        it, [b]on[/b] in any case.
    --refine
        Smooth labels over the graph of neighbouring cells: [b]auto[/b] where the graph knows about
        labels, [b]on[/b] in any case. It reads the cells into memory.
    --fast
        Neither adapt nor refine: each cell by itself, in memory that does not grow with their
        number.
    --vote COLUMN
        Let the clusters of this column vote (majority voting); [b]auto[/b] clusters the cells
        itself.
    --batch-key COLUMN
        Column of obs with the batch (sample, donor).
    --reference FILE
        What the model was trained on; --adapt is then checked on it too.

    Labels
    ------
    --types A,B,...
        Only these types, at any level, as for cells that were sorted.
    --exclude A,B,...
        All types but these, at any level.
    --threshold P
        A label stops at the deepest node that is at least this probable, from 0.5 to 1;
        [b]none[/b] leaves that out; with [b]--reject off[/b] every cell gets a leaf, however
        unclear.
    --reject
        Stop cells that no type supports further up, or at Unknown, whatever their probabilities:
        [b]auto[/b]; [b]off[/b] leaves that to the threshold.
    --decoder
        The most probable leaf, or the most probable child level by level.

    How the data is read
    --------------------
    --layer NAME
        Layer that holds the raw counts; X by default.
    --use-raw
        Read .raw of the file, with its genes.
    --scale
        What the values are: [b]auto[/b] finds out, and recovers counts from log-normalised values
        where they allow it; [b]counts[/b] takes whole numbers only; [b]recover[/b] also takes
        normalised values that were not logged; [b]as_is[/b] uses fractions unchanged.
    --fold-case
        Match genes whatever their case, as mouse on human symbols.
    """


OPTIONS: Final = options_of(_shared)
READING: Final = ("layer", "use_raw", "scale", "fold_case")
#: Arguments of `hdeepinsight.annotate`, and two that only the command line has.
ANNOTATING: Final = (
    *("model", "markers", "strict", "adapt", "refine", "fast", "vote", "batch_key", "reference"),
    *("types", "exclude", "threshold", "reject", "decoder", *READING),
)
