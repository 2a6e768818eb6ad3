"""Where an exception becomes one paragraph and an exit code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import typer
from rich.text import Text

from hdeepinsight.cli._console import errors
from hdeepinsight.cli._wording import in_options

__all__ = ["BAD_INPUT", "BAD_USAGE", "UsageProblem", "running"]

#: Exit codes: data or a model that cannot be used; a command that was not written correctly.
BAD_INPUT, BAD_USAGE = 1, 2

#: Errors that say themselves what was found, what is valid and what to do.
_EXPECTED = (ValueError, KeyError, OSError, MemoryError)
_LONGEST_UNEXPECTED = 300


class UsageProblem(ValueError):
    """Options that contradict each other, or a file that the command must not touch."""


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
        With the exit code, after an error.
    """
    with warnings.catch_warnings():
        if not debug:
            _only_our_warnings()
        try:
            yield
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise  # these have a meaning of their own
        except Exception as error:  # noqa: BLE001 - the last door: every error becomes a sentence
            if debug:
                errors().print_exception()
            errors().print(Text.assemble(("Error: ", "bold red"), _paragraph(error)))
            code = BAD_USAGE if isinstance(error, UsageProblem) else BAD_INPUT
            raise typer.Exit(code) from None


def _paragraph(error: Exception) -> str:
    # str() of a KeyError is the repr of its text.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    expected = isinstance(error, _EXPECTED) or _says_what_is_valid(error, text)
    if expected and " " in text.strip():
        return in_options("\n".join(lines))
    start = shorten(" ".join(lines), _LONGEST_UNEXPECTED, placeholder=" ...")
    return (
        f"Something unexpected happened ({type(error).__name__}: {start}). The command did not "
        "finish. Run it again with --debug to see where, and report it if your files are in order."
    )


def _says_what_is_valid(error: Exception, text: str) -> bool:
    """Tell a `TypeError` about the data, such as labels that are numbers, from one of Python."""
    return isinstance(error, TypeError) and "Valid" in text


def _only_our_warnings() -> None:
    """Show what this package warns about as a note, and nothing else."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", module=r"hdeepinsight")
    warnings.showwarning = _note


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    errors().print(
        Text.assemble(("Note: ", "bold yellow"), " ".join(in_options(str(message)).split()))
    )
