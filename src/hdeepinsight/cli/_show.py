"""Tables of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.annotation import Annotation, Evaluation

__all__ = ["evaluation_table", "frame_table", "label_table", "notes_of", "recipe_table"]

_MOST_LABELS = 40


def frame_table(frame: pd.DataFrame, *, title: str | None = None, digits: int = 3) -> Table:
    """Table of a DataFrame: the index first, floats rounded, missing values as a dash."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(str(frame.index.name or ""))
    for name in frame:
        table.add_column(str(name), justify="right")
    for label, row in zip(frame.index, frame.to_dict("records"), strict=True):
        # Text, because names of cell types may hold what rich takes for markup.
        table.add_row(Text(str(label)), *(Text(_cell(value, digits)) for value in row.values()))
    return table


def evaluation_table(evaluation: Evaluation, *, title: str) -> Table:
    """Scores of every level."""
    return frame_table(evaluation.levels, title=title)


def label_table(annotation: Annotation) -> Table:
    """Cells of each label at which paths stop."""
    summary = annotation.summary()
    shown = summary.head(_MOST_LABELS)
    rest = len(summary) - len(shown)
    table = frame_table(shown, title=f"{len(annotation):,} cells by label")
    if rest:
        table.caption = f"and {rest:,} more labels"
    return table


def notes_of(annotation: Annotation) -> list[Text]:
    """Say what was found in the query, and what was repaired."""
    reports = (annotation.input_report, annotation.gene_report)
    return [Text(str(report)) for report in reports if report is not None]


def recipe_table(recipe: dict[str, Any]) -> Table:
    """How a model was trained."""
    table = Table(title="recipe", title_justify="left", title_style="bold", show_header=False)
    for name, value in recipe.items():
        table.add_row(Text(str(name)), Text("–" if value is None else str(value)))
    return table


def _cell(value: Any, digits: int) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
