"""What is printed: results to stdout, everything else to stderr, errors as one paragraph.

No control or direction character that stands in a file reaches the terminal, and what an error
advises is said in the words of the command line.
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

#: Exit codes: data or a model that cannot be used; a command that was not written correctly; and a
#: query unlike what the model knows, of which ``--strict`` makes an error.
BAD_INPUT, BAD_USAGE, RED = 1, 2, 3

_WIDTH_OF_FILES = 110
_LONGEST_UNEXPECTED = 300
#: Errors that say themselves what was found, what is valid and what to do.
_EXPECTED = (ValueError, KeyError, OSError)
#: What the errors of torch, which have no class of their own, say of a lack of memory.
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory")


class UsageProblem(ValueError):
    """Options that contradict each other, or a file that the command must not touch."""


def refuse(problems: Mapping[str, object]) -> None:
    """Raise `UsageProblem` with the first text whose condition holds."""
    for text, applies in problems.items():
        if applies:
            raise UsageProblem(text)


class _Console(Console):
    """A console on which control and direction characters are written out."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):  # colours are no part of their text
            text = segment.text if segment.control else escape_controls(segment.text)
            yield Segment(text, segment.style, segment.control)


def _console(*, stderr: bool) -> Console:
    # Made on every call: the streams may be replaced, as tests do.
    console = _Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    return console


def show(*parts: object) -> None:
    """Print results, one below the other: tables, and texts in which nothing is markup."""
    console = _console(stderr=False)
    for part in parts:
        shown = part if isinstance(part, ConsoleRenderable) else Text(str(part))
        # Lines are not broken where they go to a file or another program.
        console.print(shown, soft_wrap=not console.is_terminal)


def note(text: str | Text, heading: str = "") -> None:
    """Print what is no result to stderr, after a heading such as ``"Note"``."""
    console, style = _console(stderr=True), "bold red" if heading == "Error" else "bold yellow"
    said = Text.assemble((f"{heading}: ", style), text) if heading else Text.assemble(text)
    console.print(said, soft_wrap=not console.is_terminal)


@contextmanager
def running(*, debug: bool) -> Iterator[None]:
    """Run a command: errors end as a paragraph on stderr, or as a traceback with ``debug``.

    Parameters
    ----------
    debug
        Show the traceback, and the warnings of other packages.

    Raises
    ------
    typer.Exit
        With the exit code, after an error. What ends a process, such as a signal, passes.
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
            raise  # these have a meaning of their own
        except Exception as error:  # noqa: BLE001  # no error may reach a user as a traceback
            if debug:
                _console(stderr=True).print_exception()
            note(_paragraph(error), "Error")
            raise typer.Exit(BAD_USAGE if isinstance(error, UsageProblem) else BAD_INPUT) from None


def _paragraph(error: Exception) -> str:
    # str() of a KeyError is the repr of its text.
    # str() of a KeyError is the repr of its text.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    start = shorten(" ".join(lines), _LONGEST_UNEXPECTED, placeholder=" ...")
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        found = f" ({start})" if start else ""
        return (
            f"There is not enough memory{found}. Use a machine with more, or fewer cells at once."
        )
    # Of types and imports only our own errors are whole sentences.
    ours = isinstance(error, TypeError | ImportError) and text.rstrip().endswith(".")
    if (ours or isinstance(error, _EXPECTED)) and " " in text.strip():
        return in_options("\n".join(lines))
    return (
        f"Something unexpected happened ({type(error).__name__}: {start}). The command did not "
        "finish. Run it again with --debug to see where, and report it if your files are in order."
    )


_ARGUMENTS: Final = (
    "adapt against backbone background batch_key checkpoint early_stopping exclude fold_case "
    "key_added labels_key labels_keys layer markers max_epochs n_genes n_members n_samples nodes "
    "overwrite refine reference reject revision scale split_key target threshold types "
    "unlabeled_category use_raw validation_size vote where"
)
#: Arguments that errors advise, all under the name of an option.
_OPTIONS: Final = {name: f"--{name.replace('_', '-')}" for name in _ARGUMENTS.split()}
#: An argument with its value, as errors advise it, or one whose name is no word of any language.
_ARGUMENT = re.compile(
    rf"(?<![\w.'\"\[])(?:(?P<given>{'|'.join(_OPTIONS)})=(?P<value>'[^']*'|\"[^\"]*\"|[\w.]*\w|)"
    rf"|(?P<named>(?:{'|'.join(name for name in _OPTIONS if '_' in name)})(?![\w'\"\]])"
    rf"|(?:{'|'.join(_OPTIONS)})(?= must be )))"
)


def in_options(text: str) -> str:
    """Say what to do at the command line, where a text says what to do in Python.

    Examples
    --------
    >>> in_options("Name one with `layer=` (None means X) or `use_raw=True`.")
    'Name one with `--layer` (None means X) or `--use-raw`.'
    >>> in_options("Pass scale='as_is', or threshold=None; raise validation_size.")
    'Pass --scale as_is, or --threshold none; raise --validation-size.'
    """

    def option(found: re.Match[str]) -> str:
        name, value = found["given"] or found["named"], (found["value"] or "").strip("'\"")
        if value == "None":
            return "--threshold none" if name == "threshold" else f"no {_OPTIONS[name]}"
        if name == "vote" and value == "True":
            return "--vote auto"
        return _OPTIONS[name] + (f" {value}" if value not in ("", "True") else "")

    text = text.replace("adata.raw.to_adata()", "--use-raw")
    return _ARGUMENT.sub(option, text.replace("an AnnData, and the path of an", "an"))


def frame_table(frame: pd.DataFrame, *, title: str | None = None) -> Table:
    """Return a DataFrame as a table: the index first, floats rounded, missing values as a dash."""
    table = Table(title=title and Text(title), title_justify="left", title_style="bold")
    table.add_column(Text(str(frame.index.name or "")))
    for name, column in frame.items():
        is_text = column.map(lambda value: isinstance(value, str) and value[-1:] != "%").all()
        table.add_column(Text(str(name)), justify="left" if is_text else "right")
    for label, row in zip(frame.index, frame.to_dict("records"), strict=True):
        # Text, because names of cell types may hold what rich takes for markup.
        table.add_row(Text(str(label)), *(Text(_cell(value)) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
