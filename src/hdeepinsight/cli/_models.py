"""``hdeepinsight models``, ``pull``, ``publish``, ``convert``: share models, rewrite them."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hdeepinsight._io import atomic_write
from hdeepinsight.cli import _options as opt
from hdeepinsight.cli._boundary import UsageProblem, running
from hdeepinsight.cli._console import frame_table, show, step
from hdeepinsight.cli._files import read_anndata

Repository = Annotated[
    str,
    typer.Argument(
        metavar="ADDRESS", help="owner/name on a hub, s3://bucket/path, or a folder (./folder)."
    ),
]


#: Which models are listed.
Where = StrEnum("Where", {"all": "all", "bundled": "bundled", "here": "here", "hub": "hub"})


def models(
    search: Annotated[str | None, typer.Argument(help="Text that the name has to contain.")] = None,
    where: Annotated[
        Where, typer.Option(help="Those of the package, fetched before, of the hub, or all.")
    ] = Where.all,
    debug: opt.Debug = False,
) -> None:
    """List the models that can be used.

    [b]hdeepinsight models pbmc[/b]
    """
    with running(debug=debug):
        with step("Asking the hub"):
            from hdeepinsight.hub import list_models

            found = list_models(search, where=where.value)
        show("No models were found." if found.empty else frame_table(found.set_index("model")))


def pull(
    repository: Repository,
    revision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Branch, tag, commit, or sha256:...; the newest else."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Also copy the model to this new folder."),
    ] = None,
    debug: opt.Debug = False,
) -> None:
    """Get a published model, and check it.

    [b]hdeepinsight pull atlas/pbmc --out pbmc_model[/b]
    """
    with running(debug=debug):
        if out is not None and out.exists():
            raise UsageProblem(
                f"--out must be a new folder, got {out}, which exists already. Choose another."
            )
        with step(f"Fetching {repository}"):
            from hdeepinsight import hub

            shared = hub.download(repository, revision)
        folder = shared.folder
        if out is not None:
            with atomic_write(out) as unfinished:
                shutil.copytree(folder, unfinished)
            folder = out
        show(f"revision  {shared.revision}", f"digest    {shared.digest}", f"folder    {folder}")


def publish(
    model: opt.Model,
    repository: Repository,
    card: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help='JSON file with at least "title", "license", "organism" and "tissues".',
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Reference that the model was trained on, for cells per type and scores in the "
            "card, and for features of the reference. Of its counts only those of the held-out "
            "cells that a model keeps, at most 400, are published.",
        ),
    ] = None,
    no_features: Annotated[
        bool, typer.Option("--no-features", help="Publish no features of reference cells.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Branch of the hub; main by default.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Share a trained model. The token of a hub is read from HF_TOKEN.

    [b]hdeepinsight publish --model my_model --card card.json atlas/pbmc[/b]
    """
    with running(debug=debug):
        fields = _read_card(card)
        with step("Loading the model"):
            from hdeepinsight import hub
            from hdeepinsight.models import load_model

            reference = False if data is None else read_anndata(data)
            loaded = load_model(hub.resolve_model(model), reference)
        with step(f"Publishing to {repository}"):
            published = hub.publish(
                loaded,
                repository,
                card=fields,
                reference="none" if no_features else "features",
                revision=revision,
                private=private,
                overwrite=overwrite,
            )
        show(f"Published as {published.address}")
        show(f"revision  {published.revision}", f"digest    {published.digest}")


def _read_card(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageProblem(
            f"--card {path} could not be read as JSON ({error}). It must be an object with title, "
            "license, organism and tissues. Check the file."
        ) from None
    if not isinstance(fields, dict):
        raise UsageProblem(
            f"--card must be a file with a JSON object, got {path}: {type(fields).__name__}."
        )
    return fields


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
    debug: opt.Debug = False,
) -> None:
    """Write a saved model again, in the present schema and format.

    [b]hdeepinsight convert my_model my_new_model[/b]
    """
    with running(debug=debug):
        with step("Converting the model"):
            from hdeepinsight.models import convert_model

            model = convert_model(old, new, trust=trust, overwrite=overwrite)
        show(repr(model), f"Saved to {new}")
