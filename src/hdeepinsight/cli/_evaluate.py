"""``hdeepinsight evaluate``: how good a model is on cells whose labels are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hdeepinsight.cli._boundary import running
from hdeepinsight.cli._console import results, step
from hdeepinsight.cli._options import (
    Debug,
    FoldCase,
    Labels,
    Layer,
    Levels,
    Model,
    Raw,
    Scale,
    ScaleOption,
    Threshold,
    ToLeaves,
    label_columns,
)
from hdeepinsight.cli._show import evaluation_table

if TYPE_CHECKING:
    from hdeepinsight.annotation import Evaluation

__all__ = ["evaluate"]


def evaluate(
    query: Annotated[Path, typer.Argument(help="Labelled query, .h5ad or .zarr.")],
    model: Model,
    labels: Labels = None,
    levels: Levels = None,
    unlabeled: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Label that means: not known; the model's by default."),
    ] = None,
    threshold: Threshold = 0.5,
    to_leaves: ToLeaves = False,
    layer: Layer = None,
    raw: Raw = False,
    scale: ScaleOption = Scale.auto,
    fold_case: FoldCase = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    debug: Debug = False,
) -> None:
    """Compare a model's labels with known ones, level by level.

    Labels are read from the columns that the model was trained on, unless others are named.

    [b]hdeepinsight evaluate query.h5ad --model my_model --labels cell_type[/b]
    """
    with running(debug=debug):
        given = label_columns(labels, levels)
        with step("Loading the model"):
            from hdeepinsight.hub import load_model

            loaded = load_model(model)
        with step("Annotating"):
            evaluation = loaded.evaluate(
                query,
                labels_keys=given,
                unlabeled_category=unlabeled,
                layer=layer,
                use_raw=raw,
                scale=scale.value,
                fold_case=fold_case,
                threshold=None if to_leaves else threshold,
            )
        _show(evaluation, as_json=as_json)


def _show(evaluation: Evaluation, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_without_nan(evaluation.to_dict()), indent=2))
        return
    console = results()
    title = f"{evaluation.n_cells:,} cells with known labels"
    console.print(evaluation_table(evaluation, title=title))
    console.print(Text(str(evaluation).splitlines()[-1]))


def _without_nan(value: Any) -> Any:
    """Plain types for JSON, which has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
