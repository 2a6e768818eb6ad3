"""Show progress bars in terminals and notebooks.

Nothing is shown if the output is a file or a pipe, or in tests.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TypeVar

from rich import progress as bars
from rich.console import Console
from rich.text import Text

Advance = Callable[[int], None]
Item = TypeVar("Item")

#: Warnings of the trainer that users cannot act on.
_IRRELEVANT_WARNINGS = (".*treespec", ".*does not have many workers", ".*`log_every_n_steps`")

_WANTED: ContextVar[bool] = ContextVar("progress_wanted", default=True)
#: The display of all nested bars; two displays would overwrite each other.
_SHOWN: ContextVar[bars.Progress | None] = ContextVar("progress_shown", default=None)


class _Speed(bars.ProgressColumn):
    """Column with the completed and total numbers, and the speed."""

    def render(self, task: bars.Task) -> Text:
        if task.total is None:
            return Text("")
        unit = task.fields["unit"]
        done = f"{int(task.completed):,}/{int(task.total):,} {unit}"
        return Text(done + (f", {task.speed:,.0f} {unit}/s" if task.speed else ""))


def tracked(
    items: Iterable[Item],
    text: str,
    total: int,
    unit: str = "cells",
    size: Callable[[Item], int] = lambda item: item[0].stop - item[0].start,  # type: ignore[index]
) -> Iterator[Item]:
    """Yield items and show their progress.

    Parameters
    ----------
    items
        By default blocks of cells: tuples that begin with a slice.
    text, total, unit
        As in `progress`.
    size
        Function that returns the size of an item.

    Examples
    --------
    >>> list(tracked([(slice(0, 2), "ab"), (slice(2, 3), "c")], "Annotating", total=3))
    [(slice(0, 2, None), 'ab'), (slice(2, 3, None), 'c')]
    """
    with progress(text, total, unit) as advance:
        for item in items:
            yield item
            advance(size(item))


def progress_visible() -> bool:
    """Return whether bars are shown: in a terminal, or a notebook with ipywidgets.

    Without ipywidgets, rich would print a warning for each bar in a notebook.
    """
    console = Console(stderr=True)
    shows = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    return _WANTED.get() and shows


@contextmanager
def progress_wanted(wanted: bool) -> Iterator[None]:
    """Switch bars on or off inside the block."""
    before = _WANTED.set(wanted and _WANTED.get())
    try:
        yield
    finally:
        _WANTED.reset(before)


@contextmanager
def progress(text: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
    """Show a bar while the block runs, or a spinner without a total.

    Parameters
    ----------
    text
        Description of the work.
    total
        Total number of units.
    unit
        Name of the units, in plural.

    Yields
    ------
    A function that takes the number of newly completed units.

    Examples
    --------
    >>> with progress("Annotating", total=2000, unit="cells") as advance:
    ...     for _ in range(2):
    ...         advance(1000)
    """
    shown, token = _SHOWN.get(), None
    if shown is None and progress_visible():
        columns = bars.SpinnerColumn(), *bars.Progress.get_default_columns(), _Speed()
        shown = bars.Progress(*columns, console=Console(stderr=True), transient=True)
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


@contextmanager
def quiet_trainer() -> Iterator[None]:
    """Suppress messages of the trainer on devices, workers and other products."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in _IRRELEVANT_WARNINGS:
                warnings.filterwarnings("ignore", message=text)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
