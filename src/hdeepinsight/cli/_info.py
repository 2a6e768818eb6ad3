"""``hdeepinsight info``: what a model or a data file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hdeepinsight.cli._boundary import running
from hdeepinsight.cli._console import results, step
from hdeepinsight.cli._files import is_store
from hdeepinsight.cli._options import Debug, Layer, Raw
from hdeepinsight.cli._show import recipe_table

__all__ = ["info"]

_MOST_VALUES = 6


def info(
    target: Annotated[
        Path,
        typer.Argument(help="Folder of a model, or pbmc, the bundled one; an .h5ad or .zarr file."),
    ],
    layer: Layer = None,
    raw: Raw = False,
    debug: Debug = False,
) -> None:
    """Say what a model, or a data file, holds.

    [b]hdeepinsight info my_model[/b]
    """
    with running(debug=debug):
        if not target.exists():
            from hdeepinsight.hub import bundled_folder

            target = bundled_folder(str(target)) or target
        if target.is_dir() and not is_store(target):
            _show_model(target)
        else:
            _show_data(target, layer, raw)


def _show_model(folder: Path) -> None:
    with step("Loading the model"):
        from hdeepinsight.models import SCHDeepInsight

        model = SCHDeepInsight.load(folder, adata=False)
    console = results()
    console.print(Text(repr(model)))
    console.print()
    console.print(Text(str(model.taxonomy)))
    console.print()
    console.print(recipe_table(model.recipe))


def _show_data(path: Path, layer: str | None, raw: bool) -> None:
    with step("Looking at every value"):
        from hdeepinsight.data import inspect_input, open_store

        report = inspect_input(path, layer=layer, use_raw=raw)
        store = open_store(path)
    console = results()
    console.print(Text(str(report)))
    console.print()
    console.print(Text(f"matrices  {', '.join(store.slots)}"))
    console.print(Text("obs columns", style="bold"))
    for name in store.obs:
        values = store.obs[name].dropna()
        distinct = values.unique()
        shown = ", ".join(map(str, distinct[:_MOST_VALUES]))
        more = f", ... ({len(distinct):,} values)" if len(distinct) > _MOST_VALUES else ""
        console.print(Text(f"  {name}: {shown}{more}"))
