"""Options of the commands: written once, under the names and with the defaults of Python."""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import typer

from hdeepinsight.cli._console import running

#: Default of what has to be given.
REQUIRED: Final = inspect.Parameter.empty


class Option(NamedTuple):
    """An option of a command; an argument where it is `given_first`."""

    kind: Any
    default: Any
    help: str
    metavar: str | None = None
    short: str = ""
    panel: str | None = None
    given_first: bool = False
    settings: dict[str, Any] = {}  # noqa: RUF012

    def parameter(self, name: str) -> inspect.Parameter:
        """Return it as a keyword of the command, in the form that typer reads."""
        settings: Any = {"help": self.help, "metavar": self.metavar, **self.settings}
        words = [f"--{name.replace('_', '-')}", *self.short.split()]
        if self.kind is bool and self.default:
            words = [f"{words[0]}/--no-{words[0][2:]}"]
        settings["rich_help_panel"] = self.panel
        if self.given_first:
            info = typer.Argument(**(settings | {"metavar": self.metavar or name.upper()}))
        else:
            info = typer.Option(*words, **settings)
        form = Annotated[self.kind, info]  # type: ignore[name-defined]
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, keyword, default=self.default, annotation=form)


def command(*shared: str, **own: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: with options of its own, and with those of `OPTIONS` by name.

    Errors in it end as a paragraph and an exit code; see `running`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(*, debug: bool, **given: Any) -> None:
            with running(debug=debug):
                if listed := given.get("labels_keys"):  # one list per time that it was given
                    given["labels_keys"] = list(chain.from_iterable(listed))
                function(**given)

        chosen = own | {name: OPTIONS[name] for name in (*shared, "debug")}
        parameters = [option.parameter(name) for name, option in chosen.items()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__name__ = function.__name__
        # Lines of a paragraph are broken where the terminal ends, not where the source does.
        run.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(function) or "")
        return run

    return decorate


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


Switch = Literal["auto", "on", "off"]
OutputFile = partial(Option, Path, metavar="FILE", short="-o")
OutputFolder = partial(Option, Path, metavar="DIR", short="-o")
Argument = partial(Option, given_first=True)
List = partial(Option, Any, metavar="A,B,...", settings={"parser": _names})
_Step = partial(Option, panel="Steps")
_Label = partial(Option, panel="Labels")
_Reading = partial(Option, panel="How the data is read")

OPTIONS: Final[dict[str, Option]] = {
    "query": Argument(
        Path,
        REQUIRED,
        "Query with raw counts: .h5ad, .zarr, .h5 of 10x, .loom, a folder with a .mtx, or a table.",
    ),
    "model": Option(
        str,
        "pbmc",
        "Folder of a trained model, the address of a published one (owner/name, "
        "s3://bucket/path), or pbmc, the bundled one.",
        "MODEL",
        "-m",
    ),
    "markers": Option(
        str,
        None,
        "Label by marker genes instead, without a model or a reference: [b]blood[/b], the list "
        "that comes with the package, or a file of yours (.csv or .tsv with the columns type and "
        "gene, .gmt).",
        "LIST",
    ),
    "overwrite": Option(bool, False, "Replace what is at --out already."),
    "debug": Option(bool, False, "Show the traceback of an error."),
    "adapt": _Step(
        Switch,
        "auto",
        "Adapt the model to the query: [b]auto[/b] keeps that where independent marker genes "
        "favour it, [b]on[/b] in any case.",
    ),
    "refine": _Step(
        Switch,
        "auto",
        "Smooth labels over the graph of neighbouring cells: [b]auto[/b] where the graph knows "
        "about labels, [b]on[/b] in any case. It reads the cells into memory.",
    ),
    "fast": _Step(
        bool,
        False,
        "Neither adapt nor refine: each cell by itself, in memory that does not grow with their "
        "number.",
    ),
    "vote": _Step(
        str | None,
        None,
        "Let the clusters of this column vote (majority voting); [b]auto[/b] clusters the cells "
        "itself.",
        "COLUMN",
    ),
    "batch_key": _Step(str | None, None, "Column of obs with the batch (sample, donor).", "COLUMN"),
    "reference": _Step(
        Path | None,
        None,
        "What the model was trained on; --adapt is then checked on it too.",
        "FILE",
    ),
    "types": List(
        None, "Only these types, at any level, as for cells that were sorted.", panel="Labels"
    ),
    "exclude": List("", "All types but these, at any level.", panel="Labels"),
    "threshold": _Label(
        Any,
        "0.5",
        "A label stops at the deepest node that is at least this probable, from 0.5 to 1; "
        "[b]none[/b] leaves that out; with [b]--reject off[/b] every cell gets a leaf, however "
        "unclear.",
        "P",
        settings={"parser": _probability},
    ),
    "reject": _Label(
        Literal["auto", "off"],
        "auto",
        "Stop cells that no type supports further up, or at Unknown, whatever their "
        "probabilities: [b]auto[/b]; [b]off[/b] leaves that to the threshold.",
    ),
    "decoder": _Label(
        Literal["joint", "greedy"],
        "joint",
        "The most probable leaf, or the most probable child level by level.",
    ),
    "strict": Option(
        bool,
        False,
        "End with exit code 3 if the query does not look like what the model knows (a red "
        "verdict). The results are written all the same.",
    ),
    "layer": _Reading(str | None, None, "Layer that holds the raw counts; X by default.", "NAME"),
    "use_raw": _Reading(bool, False, "Read .raw of the file, with its genes."),
    "scale": _Reading(
        Literal["auto", "counts", "recover", "as_is"],
        "auto",
        "What the values are: [b]auto[/b] finds out, and recovers counts from log-normalised "
        "values where they allow it; [b]counts[/b] takes whole numbers only; [b]recover[/b] also "
        "takes normalised values that were not logged; [b]as_is[/b] uses fractions unchanged.",
    ),
    "fold_case": _Reading(
        bool, False, "Match genes whatever their case, as mouse on human symbols."
    ),
    "labels_keys": Option(
        list[Any],
        [],
        "Column of obs with the cell types, or one per level from coarse to fine: "
        "lineage,cell_type. It may be given again for each.",
        "A,B,...",
        "--labels-key -l",
        settings={"parser": _names},
    ),
}
READING: Final = ("layer", "use_raw", "scale", "fold_case")
#: Arguments of `hdeepinsight.annotate`, and two that only the command line has.
ANNOTATING: Final = (
    *("model", "markers", "strict", "adapt", "refine", "fast", "vote", "batch_key", "reference"),
    *("types", "exclude", "threshold", "reject", "decoder", *READING),
)
