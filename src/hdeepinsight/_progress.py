"""Small bars for work that takes longer than a breath, alike in terminals and notebooks.

Nothing is shown where nobody watches: in a file, a pipe or a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int], None]

_WANTED: ContextVar[bool] = ContextVar("progress_wanted", default=True)
#: The bars that are shown; one display holds all of them, as two would overwrite each other.
_SHOWN: ContextVar[Progress | None] = ContextVar("progress_shown", default=None)


class _Speed(ProgressColumn):
    """How much is done of how much, and how fast."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        unit = task.fields["unit"]
        done = f"{int(task.completed):,}/{int(task.total):,} {unit}"
        return Text(done + (f", {task.speed:,.0f} {unit}/s" if task.speed else ""))


@contextmanager
def progress_wanted(wanted: bool) -> Iterator[None]:
    """Show bars inside of the block, or none."""
    before = _WANTED.set(wanted and _WANTED.get())
    try:
        yield
    finally:
        _WANTED.reset(before)


@contextmanager
def progress(text: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
    """Show a bar while the block runs; a spinner where there is no total.

    Parameters
    ----------
    text
        What is being done.
    total
        How much there is to do.
    unit
        Of what, in plural.

    Yields
    ------
    A function that is told how much more was done.

    Examples
    --------
    >>> with progress("Annotating", total=2000, unit="cells") as advance:
    ...     for _ in range(2):
    ...         advance(1000)
    """
    shown, token = _SHOWN.get(), None
    if shown is None and _WANTED.get():
        console = Console(stderr=True)
        if console.is_terminal or console.is_jupyter:
            columns = (TextColumn("{task.description}"), BarColumn(), _Speed())
            shown = Progress(
                SpinnerColumn(), *columns, TimeRemainingColumn(), console=console, transient=True
            )
            shown.start()
            token = _SHOWN.set(shown)
    if shown is None:
        yield lambda n: None
        return
    task = shown.add_task(text, total=total, unit=unit)
    try:
        yield lambda n: shown.advance(task, n)
    finally:
        shown.remove_task(task)
        if token is not None:
            shown.stop()
            _SHOWN.reset(token)
