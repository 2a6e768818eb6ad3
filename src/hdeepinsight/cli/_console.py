"""Two consoles (results to stdout, everything else to stderr) and what moves while one waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

__all__ = ["errors", "results", "step"]

_WIDTH_OF_FILES = 110


class _Console(Console):
    """A console whose lines are not broken where they go to a file or another program."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **{"soft_wrap": not self.is_terminal, **options})


def results() -> Console:
    """Console for what was asked for."""
    return _console(stderr=False)


def errors() -> Console:
    """Console for progress, notes and errors."""
    return _console(stderr=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show what is being done, with a spinner; nothing where nobody watches."""
    console = errors()
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


def _console(*, stderr: bool) -> Console:
    # Made on every call: the streams may be replaced, as tests do.
    console = _Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    return console
