"""Two consoles (results to stdout, everything else to stderr), what moves while one waits, tables.

Every text that a command prints passes here, and no control or direction character that stands in
a file reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hdeepinsight._io import escape_controls
from hdeepinsight._progress import progress

if TYPE_CHECKING:
    import pandas as pd

_WIDTH_OF_FILES = 110


class _Visible:
    """What is printed, with control and direction characters written out."""

    def __init__(self, shown: ConsoleRenderable) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.shown, options):  # colours are no part of their text
            text = segment.text if segment.control else escape_controls(segment.text)
            yield Segment(text, segment.style, segment.control)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.shown)


class _ShowControls(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Visible(each) for each in renderables]


class _Console(Console):
    """A console whose lines are not broken where they go to a file or another program."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **{"soft_wrap": not self.is_terminal, **options})


def results(*, stderr: bool = False) -> Console:
    """Return the console for what was asked for."""
    # Made on every call: the streams may be replaced, as tests do.
    console = _Console(stderr=stderr, highlight=False)
    console.push_render_hook(_ShowControls())
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    return console


def errors() -> Console:
    """Return the console for progress, notes and errors."""
    return results(stderr=True)


def show(*parts: object) -> None:
    """Print results, one below the other: tables, and texts in which nothing is markup."""
    console = results()
    for part in parts:
        console.print(part if isinstance(part, Table | Text) else Text(str(part)))


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show what is being done, with a spinner; nothing where nobody watches."""
    with progress(text):
        yield


@contextmanager
def training_progress() -> Iterator[dict[str, Any]]:
    """Give keyword arguments for ``train`` that draw a bar of epochs; no bar outside a terminal."""
    console = errors()
    if not console.is_terminal:
        yield {"enable_progress_bar": False}
        return
    columns = (
        TextColumn("Training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[losses]}"),
    )
    with Progress(*columns, console=console) as bars:
        yield {"enable_progress_bar": False, "callbacks": [_epoch_bar(bars)]}


def _epoch_bar(bars: Progress) -> Any:
    """Make the trainer's callback; only here, because Lightning is slow to import."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    class EpochBar(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.task = bars.add_task("train", total=trainer.max_epochs, losses="")

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            metrics = trainer.callback_metrics
            shown = [name for name in ("train_loss", "validation_loss") if name in metrics]
            losses = ", ".join(f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in shown)
            bars.update(self.task, advance=1, losses=losses)

    return EpochBar()


def frame_table(frame: pd.DataFrame, *, title: str | None = None) -> Table:
    """Return a DataFrame as a table: the index first, floats rounded, missing values as a dash."""
    table = Table(title=title and Text(title), title_justify="left", title_style="bold")
    table.add_column(Text(str(frame.index.name or "")))
    for name, column in frame.items():
        text = column.map(lambda value: isinstance(value, str)).all()
        table.add_column(Text(str(name)), justify="left" if text else "right")
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
