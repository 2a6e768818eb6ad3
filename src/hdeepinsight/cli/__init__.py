"""The command line: ``hdeepinsight train | annotate | evaluate | info``."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hdeepinsight import __version__
from hdeepinsight.cli._annotate import annotate, evaluate, explain
from hdeepinsight.cli._models import convert, info, models, publish, pull, train
from hdeepinsight.cli._stream import merge


class _App(typer.Typer):
    """Application that replaces characters which the encoding of a stream lacks."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if sys.flags.optimize > 1:  # anndata and scvi-tools need their docstrings at import
            os.environ["PYTHONOPTIMIZE"] = "1"
            os.execv(sys.executable, [sys.executable, "-m", "hdeepinsight", *sys.argv[1:]])
        # Garbage collection of the objects that imports create takes longer than annotating a
        # thousand cells.
        gc.set_threshold(100_000)
        atexit.register(gc.freeze)
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(errors="replace")
        return super().__call__(*arguments, **options)


class _Flags:
    """Command or group whose help shows flags without a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags without a placeholder."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for each in params:
            if getattr(each, "is_flag", False):
                each.metavar = ""
        return params


class _Command(_Flags, TyperCommand):
    """A command."""


class _Group(_Flags, TyperGroup):
    """All commands."""


app = _App(
    name="hdeepinsight",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_CELLS = (annotate, merge, explain, evaluate, train)
for run in (*_CELLS, info, models, pull, publish, convert):
    app.command(cls=_Command)(run)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hdeepinsight {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Hierarchical cell type annotation of single-cell data.

    For human blood cells, run hdeepinsight annotate query.h5ad.

    Input files are never modified; results are written to new files.
    """
