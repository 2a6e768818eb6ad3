"""``hdeepinsight convert``: an older model in the present format, or a pickled one made safe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hdeepinsight.cli._boundary import running
from hdeepinsight.cli._console import results, step
from hdeepinsight.cli._options import Debug

__all__ = ["convert"]


def convert(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of a saved model.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder to write.")],
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
    """Write a saved model again, in the present schema and format.

    [b]hdeepinsight convert my_model my_new_model[/b]
    """
    with running(debug=debug):
        with step("Converting the model"):
            from hdeepinsight.models import convert_model

            model = convert_model(old, new, trust=trust, overwrite=overwrite)
        console = results()
        console.print(Text(repr(model)))
        console.print(Text(f"Saved to {new}"))
