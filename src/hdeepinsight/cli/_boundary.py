"""Where an exception becomes one paragraph and an exit code, in the words of the command line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import Final

import typer
from rich.text import Text

from hdeepinsight.cli._console import errors

#: Exit codes: data or a model that cannot be used; a command that was not written correctly; and a
#: query unlike what the model knows, of which ``--strict`` makes an error.
BAD_INPUT, BAD_USAGE, RED = 1, 2, 3

#: Errors that say themselves what was found, what is valid and what to do.
_EXPECTED = (ValueError, KeyError, OSError)
#: What the errors of torch, which have no class of their own, say of a lack of memory.
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory")
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
        With the exit code, after an error. What ends a process, such as a signal, passes.
    """
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module=r"hdeepinsight")
        warnings.showwarning = _note
        try:
            yield
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise  # these have a meaning of their own
        except Exception as error:  # noqa: BLE001  # no error may reach a user as a traceback
            if debug:
                errors().print_exception()
            errors().print(Text.assemble(("Error: ", "bold red"), _paragraph(error)))
            raise typer.Exit(BAD_USAGE if isinstance(error, UsageProblem) else BAD_INPUT) from None


def _note(message: Warning | str, *_: object, **__: object) -> None:
    said = " ".join(in_options(str(message)).split())
    errors().print(Text.assemble(("Note: ", "bold yellow"), said))


def _paragraph(error: Exception) -> str:
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
    "backbone batch_key checkpoint early_stopping exclude fold_case key_added labels_key "
    "labels_keys layer max_epochs n_genes overwrite reference revision scale split_key "
    "threshold types unlabeled_category use_raw validation_size vote where"
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
    return _ARGUMENT.sub(_option, text.replace("adata.raw.to_adata()", "--use-raw"))


def _option(found: re.Match[str]) -> str:
    name, value = found["given"] or found["named"], (found["value"] or "").strip("'\"")
    if value == "None":
        return "--threshold none" if name == "threshold" else f"no {_OPTIONS[name]}"
    if name == "vote" and value == "True":
        return "--vote auto"
    return _OPTIONS[name] + (f" {value}" if value not in ("", "True") else "")
