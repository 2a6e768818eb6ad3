"""Commands for models and data files: ``info``, ``models``, ``pull``, ``publish``, ``convert``."""

from __future__ import annotations

import shutil
from json import loads
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from hdeepinsight._io import atomic_write
from hdeepinsight._progress import progress as step
from hdeepinsight.cli._console import UsageProblem, frame_table, in_options, show
from hdeepinsight.cli._files import check_output, is_store, open_cells
from hdeepinsight.cli._options import command

_MAX_VALUES = 6


@command("layer", "use_raw")
def info(target: Path, layer: str | None, use_raw: bool) -> None:
    """Describe a model or a data file.

    [b]hdeepinsight info my_model[/b]

    Options
    -------
    target TARGET
        Folder of a model, pbmc or immune for a bundled model, or a data file.
    """
    with step(f"Reading {target}"):
        from hdeepinsight import hub
        from hdeepinsight.data import Modalities, inspect_input, open_store

        if not target.exists():
            target = hub.bundled_folders().get(str(target), target)
        if target.is_dir() and not is_store(target) and not next(target.glob("*.mtx*"), None):
            model = hub.load_model(target)
            style: dict[str, Any] = {"title_justify": "left", "title_style": "bold"}
            table = Table(title="recipe", show_header=False, **style)
            for name, value in model.recipe.items():
                table.add_row(Text(str(name)), Text("–" if value is None else str(value)))
            tree = getattr(model, "taxonomy", None)
            shown = [repr(model), "", *([tree, ""] if tree is not None else []), table]
        else:
            cells: Any = open_cells(target)
            shown, store = [], cells
            if mods := getattr(cells, "mod", {}):
                parts = ", ".join(f"{name} ({mod.n_vars:,} columns)" for name, mod in mods.items())
                rna = Modalities().find(cells, "rna")
                shown = [f"MuData of {cells.n_obs:,} cells: {parts}"]
                shown += [f"its RNA, {rna!r}:"] if rna else []
                store = open_store(mods[rna]) if rna else None
            if store is not None:
                report = inspect_input(store, layer=layer, use_raw=use_raw)
                shown += [in_options(str(report)), "", f"matrices  {', '.join(store.slots)}"]
            shown.append(Text("obs columns", style="bold"))
            columns = dict(store.obs if mods and store else {}) | dict(cells.obs)
            for name, column in columns.items():
                distinct = column.dropna().unique()
                more = f", ... ({len(distinct):,} values)" * (len(distinct) > _MAX_VALUES)
                shown.append(f"  {name}: {', '.join(map(str, distinct[:_MAX_VALUES]))}{more}")
    show(*shown)


@command()
def models(
    search: str | None = None, where: Literal["all", "bundled", "here", "hub"] = "all"
) -> None:
    """List the available models.

    [b]hdeepinsight models pbmc[/b]

    Options
    -------
    search SEARCH
        Text that the name contains.
    --where
        Models of the package ([b]bundled[/b]), downloaded before ([b]here[/b]), on the hub
        ([b]hub[/b]), or all.
    """
    with step("Listing models"):
        from hdeepinsight.hub import list_models

        found = list_models(search, where=where)
    show("No models were found." if found.empty else frame_table(found.set_index("model")))


@command()
def pull(repository: str, revision: str | None = None, out: Path | None = None) -> None:
    """Download a published model and verify its checksums.

    [b]hdeepinsight pull atlas/pbmc --out pbmc_model[/b]

    Options
    -------
    repository ADDRESS
        owner/name on a hub, s3://bucket/path, or a folder (./folder).
    --revision NAME
        Branch, tag, commit, or sha256:... Default: the latest.
    --out -o DIR
        Also copy the model to this new folder.
    """
    if out is not None and out.exists():
        raise UsageProblem(f"--out must be a new folder, but {out} already exists. Choose another.")
    with step(f"Downloading {repository}"):
        from hdeepinsight import hub

        shared = hub.download(repository, revision)
    folder = shared.folder
    if out is not None:
        with atomic_write(out) as unfinished:
            shutil.copytree(folder, unfinished)
        folder = out
    show(f"revision  {shared.revision}", f"digest    {shared.digest}", f"folder    {folder}")


@command("overwrite")
def publish(
    model: str,
    repository: str,
    card: Path,
    data: Path | None = None,
    revision: str | None = None,
    private: bool = False,
    **how: Any,
) -> None:
    """Publish a trained model. The access token is read from HF_TOKEN.

    [b]hdeepinsight publish --model my_model --card card.json atlas/pbmc[/b]

    Options
    -------
    --model -m MODEL
        Folder of a trained model.
    repository ADDRESS
        owner/name on a hub, s3://bucket/path, or a folder (./folder).
    --card FILE
        JSON file with at least "title", "license", "organism" and "tissues".
    --data FILE
        Reference that the model was trained on, for the cells per type and the scores in the card.
        Counts are published only of the held-out cells that a model keeps, at most 400.
    --revision BRANCH
        Branch of the repository. Default: main.
    --private
        Create a new repository as private; an existing one must be private.
    """
    valid = "an object with title, license, organism and tissues. Check the file."
    try:
        fields = loads(card.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        found = f"--card {card} could not be read as JSON ({error})"
        raise UsageProblem(f"{found}. It must be {valid}") from None
    if not isinstance(fields, dict):
        raise UsageProblem(f"--card {card} contains a {type(fields).__name__}. It must be {valid}")
    with step("Loading the model"):
        from hdeepinsight import hub
        from hdeepinsight.data import read_anndata
        from hdeepinsight.models import load_model

        reference = False if data is None else read_anndata(data)
        loaded = load_model(hub.resolve_model(model), reference)
    how |= {"revision": revision, "private": private}
    with step(f"Publishing to {repository}"):
        done = hub.publish(loaded, repository, card=fields, **how)
    show(f"Published as {done.address}", f"revision  {done.revision}", f"digest    {done.digest}")


@command()
def convert(old: Path, new: Path, fast: bool = False, overwrite: bool = False) -> None:
    """Rewrite a saved model in the current format, or a query so that it is read faster.

    [b]hdeepinsight convert my_model my_new_model[/b]

    [b]hdeepinsight convert query.h5ad query.zarr --fast[/b]

    Options
    -------
    old OLD
        Folder of a saved model; with [b]--fast[/b], a query.
    new NEW
        Folder to write; with [b]--fast[/b], a .zarr store about as large as a compressed .h5ad, or
        an uncompressed .h5ad, which is faster still.
    --fast
        Convert a query.
    --overwrite
        Replace NEW.
    """
    if fast:
        check_output(new, source=old, overwrite=overwrite, option="NEW", formats=(".zarr", ".h5ad"))
        with step("Converting the query"), atomic_write(new) as path:
            from hdeepinsight.data import write_fast_store

            write_fast_store(old, path)
        show(f"Written to {new}")
        return
    if old.is_file() or is_store(old):
        raise UsageProblem(f"{old} is not a model. Pass --fast to convert a query.")
    with step("Converting the model"):
        from hdeepinsight.models import convert_model

        model = convert_model(old, new, overwrite=overwrite)
    show(repr(model), f"Saved to {new}")
