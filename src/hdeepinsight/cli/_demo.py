"""``hdeepinsight demo``: the whole way on real data, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hdeepinsight.cli._boundary import running
from hdeepinsight.cli._options import Debug

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for everything it makes.")
    ] = Path("demo_out"),
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    debug: Debug = False,
) -> None:
    """Train and annotate real blood cells, offline, and draw what came out.

    Running it again replaces what an earlier run left in the folder.
    """
    with running(debug=debug):
        from hdeepinsight._demo import run_demo

        run_demo(out, seed=seed)
