"""``hdeepinsight convert``: a saved model in another format, or a pickled one made safe."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hdeepinsight.cli._boundary import running
from hdeepinsight.cli._console import results, step
from hdeepinsight.cli._options import Debug

__all__ = ["convert"]


class Format(StrEnum):
    """How a model is written; see `hdeepinsight.SCHDeepInsight.save`."""

    torch = "torch"
    safetensors = "safetensors"


def convert(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of a saved model.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder to write.")],
    format: Annotated[
        Format,
        typer.Option(
            help="[b]torch[/b]: model.pt, which the scvi hub needs; [b]safetensors[/b]: weights "
            "that any tool reads, and JSON."
        ),
    ] = Format.torch,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Unpickle OLD if it is not plain data. This runs any code in it: only for files "
            "that you made yourself.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in NEW.")] = False,
    debug: Debug = False,
) -> None:
    """Write a saved model again, in the present schema.

    [b]hdeepinsight convert my_model my_model_safe --format safetensors[/b]
    """
    with running(debug=debug):
        with step("Converting the model"):
            from hdeepinsight.models import convert_model

            model = convert_model(old, new, format=format.value, trust=trust, overwrite=overwrite)
        console = results()
        console.print(Text(repr(model)))
        console.print(Text(f"Saved to {new}"))
