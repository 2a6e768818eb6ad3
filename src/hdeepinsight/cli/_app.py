"""The application: which commands there are, and its version."""

from __future__ import annotations

from typing import Annotated

import typer

from hdeepinsight import __version__
from hdeepinsight.cli import (
    _annotate,
    _convert,
    _demo,
    _evaluate,
    _explain,
    _info,
    _models,
    _report,
    _train,
)

__all__ = ["app"]

app = typer.Typer(
    name="hdeepinsight",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(_train.train)
app.command("annotate")(_annotate.annotate)
app.command("report")(_report.report)
app.command("explain")(_explain.explain)
app.command("evaluate")(_evaluate.evaluate)
app.command("info")(_info.info)
app.command("models")(_models.models)
app.command("pull")(_models.pull)
app.command("publish")(_models.publish)
app.command("convert")(_convert.convert)
app.command("demo")(_demo.demo)


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
    """Give every cell a label at every level of a cell type taxonomy.

    Data files are .h5ad or .zarr with raw counts. They are only read: results go to new files.
    """
