"""Print results to stdout, messages to stderr, and errors as one paragraph.

Control and direction characters are escaped, and advice in error messages names command line
options instead of Python arguments.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hdeepinsight._io import escape_controls

if TYPE_CHECKING:
    import pandas as pd

#: Exit codes: unusable data or model; invalid command; red verdict with ``--strict``.
BAD_INPUT, BAD_USAGE, RED = 1, 2, 3

#: Line width if the output is not a terminal, in characters.
_FILE_WIDTH = 110
#: Characters of an unexpected error message that are printed.
_MAX_UNEXPECTED = 300
#: Errors whose messages already state what was expected, what was found and what to do.
_EXPECTED = (ValueError, KeyError, OSError)
#: Phrases that identify memory errors of torch, which have no class.
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory")


class UsageProblem(ValueError):
    """Invalid combination of options, or an output file that must not be replaced."""


def refuse(problems: Mapping[str, object]) -> None:
    """Raise `UsageProblem` with the first text whose condition is true."""
    for text, applies in problems.items():
        if applies:
            raise UsageProblem(text)


class _Console(Console):
    """Console that escapes control and direction characters."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):  # styles are separate from the text
            text = segment.text if segment.control else escape_controls(segment.text)
            yield Segment(text, segment.style, segment.control)


def _console(*, stderr: bool) -> Console:
    # Created on every call, because the streams may be replaced, for example by tests.
    console = _Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def show(*parts: object) -> None:
    """Print results to stdout: tables, and texts without markup."""
    console = _console(stderr=False)
    for part in parts:
        shown = part if isinstance(part, ConsoleRenderable) else Text(str(part))
        # Lines are not wrapped if the output is a file or a pipe.
        console.print(shown, soft_wrap=not console.is_terminal)


def note(text: str | Text, heading: str = "") -> None:
    """Print a message to stderr, after a heading such as ``"Note"``."""
    console, style = _console(stderr=True), "bold red" if heading == "Error" else "bold yellow"
    message = Text.assemble((f"{heading}: ", style), text) if heading else Text.assemble(text)
    console.print(message, soft_wrap=not console.is_terminal)


@contextmanager
def running(*, debug: bool) -> Iterator[None]:
    """Run a command and print its errors as a paragraph, or as a traceback with ``debug``.

    Parameters
    ----------
    debug
        Show the traceback, and the warnings of other packages.

    Raises
    ------
    typer.Exit
        With the exit code, after an error. Signals and other exits of the process pass through.
    """
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module=r"hdeepinsight")
        warnings.showwarning = lambda message, *_, **__: note(
            " ".join(in_options(str(message)).split()), "Note"
        )
        try:
            yield
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise  # handled by typer
        except Exception as error:  # noqa: BLE001  # users never see a traceback
            if debug:
                _console(stderr=True).print_exception()
            note(_paragraph(error), "Error")
            raise typer.Exit(BAD_USAGE if isinstance(error, UsageProblem) else BAD_INPUT) from None


def _paragraph(error: Exception) -> str:
    # str() of a KeyError is the repr of its text.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    start = shorten(" ".join(lines), _MAX_UNEXPECTED, placeholder=" ...")
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        found = f" ({start})" if start else ""
        return f"Not enough memory{found}. Use a machine with more memory, or fewer cells at once."
    # Only this package's TypeError and ImportError messages are complete sentences.
    ours = isinstance(error, TypeError | ImportError) and text.rstrip().endswith(".")
    if (ours or isinstance(error, _EXPECTED)) and " " in text.strip():
        return in_options("\n".join(lines))
    return (
        f"Unexpected error ({type(error).__name__}: {start}). The command did not finish. Run it "
        "again with --debug for the traceback, and report it if your files are valid."
    )


_ARGUMENTS: Final = (
    "adapt against backbone background batch_key checkpoint early_stopping exclude fold_case "
    "key_added labels_key labels_keys layer markers max_epochs n_genes n_members n_samples nodes "
    "overwrite refine reject revision scale split_key target threshold types "
    "unlabeled_category use_raw validation_size vote where"
)
#: Arguments that occur in error messages, with the option of the same name.
_OPTIONS: Final = {name: f"--{name.replace('_', '-')}" for name in _ARGUMENTS.split()}
#: Argument with a value, or an argument whose name has an underscore or precedes "must be".
_ARGUMENT = re.compile(
    rf"(?<![\w.'\"\[])(?:(?P<given>{'|'.join(_OPTIONS)})=(?P<value>\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[\w.]*\w|)"
    rf"|(?P<named>(?:{'|'.join(name for name in _OPTIONS if '_' in name)})(?![\w'\"\]])"
    rf"|(?:{'|'.join(_OPTIONS)})(?= must be )))"
)


def in_options(text: str) -> str:
    """Replace Python arguments in a message by command line options.

    Examples
    --------
    >>> in_options("Name one with `layer=` (None means X) or `use_raw=True`.")
    'Name one with `--layer` (None means X) or `--use-raw`.'
    >>> in_options("Pass scale='as_is', or threshold=None; raise validation_size.")
    'Pass --scale as_is, or --threshold none; raise --validation-size.'
    """

    def option(found: re.Match[str]) -> str:
        name, value = found["given"] or found["named"], (found["value"] or "").strip("[]'\"")
        value = value.replace("', '", ",")
        if value == "None":
            return "--threshold none" if name == "threshold" else f"no {_OPTIONS[name]}"
        if name == "vote" and value == "True":
            return "--vote auto"
        return _OPTIONS[name] + (f" {value}" if value not in ("", "True") else "")

    text = text.replace("adata.raw.to_adata()", "--use-raw")
    return _ARGUMENT.sub(option, text.replace("an AnnData, and the path of an", "an"))


def frame_table(frame: pd.DataFrame, *, title: str | None = None) -> Table:
    """Return a DataFrame as a table, with rounded floats and a dash for missing values."""
    table = Table(title=title and Text(title), title_justify="left", title_style="bold")
    table.add_column(Text(str(frame.index.name or "")))
    for name, column in frame.items():
        is_text = column.map(lambda value: isinstance(value, str) and value[-1:] != "%").all()
        table.add_column(Text(str(name)), justify="left" if is_text else "right")
    for label, row in zip(frame.index, frame.to_dict("records"), strict=True):
        # Text, because names of cell types may contain brackets, which rich reads as markup.
        table.add_row(Text(str(label)), *(Text(_cell(value)) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
