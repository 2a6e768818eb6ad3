"""Commands for models and data files: describe, list, download, publish, convert and train."""

from __future__ import annotations

import inspect
import shutil
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from rich.table import Table
from rich.text import Text

from hdeepinsight._errors import one_column, refuse_unused
from hdeepinsight._io import atomic_write
from hdeepinsight._progress import progress as step
from hdeepinsight.cli._console import UsageProblem, frame_table, in_options, note, refuse, show
from hdeepinsight.cli._files import check_output, is_store, open_cells, require_writable
from hdeepinsight.cli._options import AtLeastOne, Natural, command, options_of

#: Values of a column that ``info`` lists.
_MAX_VALUES = 6
#: Arguments in Python that have no option on the command line.
_PYTHON_ONLY: Final = {
    *("self", "adata", "registry", "source_registry", "datamodule", "trainer_kwargs"),
    *("datasplitter_kwargs", "plan_kwargs", "args", "kwargs", "others"),
}


@command("layer", "use_raw")
def info(target: str, layer: str | None, use_raw: bool) -> None:
    """Describe a model or a data file.

    [b]hdeepinsight info my_model[/b]

    Options
    -------
    target TARGET
        Folder of a model, pbmc or immune for a bundled model, hf://owner/name or another address
        of a published model, or a data file.
    """
    with step(f"Reading {target}"):
        from hdeepinsight import hub
        from hdeepinsight.data import Modalities, inspect_input, open_store

        path = Path(target).expanduser()
        if not path.exists() and ("://" in target or target in hub.bundled_folders()):
            path = hub.resolve_model(target)
        if path.is_dir() and not is_store(path) and not next(path.glob("*.mtx*"), None):
            refuse_unused({"layer": layer, "use_raw": use_raw}, "for a model")
            model = hub.load_model(path)
            style: dict[str, Any] = {"title_justify": "left", "title_style": "bold"}
            table = Table(title="recipe", show_header=False, **style)
            for name, value in model.recipe.items():
                table.add_row(Text(str(name)), Text("–" if value is None else str(value)))
            tree = getattr(model, "taxonomy", None)
            shown = [repr(model), "", *([tree, ""] if tree is not None else []), table]
        else:
            cells: Any = open_cells(path)
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


def _training(
    split_key: str | None = None,
    unlabeled_category: str = "Unknown",
    n_genes: AtLeastOne = 4096,
    layout: Literal["tsne", "tsne_published", "mde", "random"] = "tsne",
    backbone: str = "compact",
    n_members: str = "1",
    validation_size: Annotated[float, {"min": 0, "max": 0.9}] = 0.1,
    max_epochs: Annotated[int | None, {"min": 1}] = None,
    early_stopping: bool = False,
    checkpoint: Path | None = None,
    seed: Natural = 0,
    accelerator: str = "auto",
) -> None:
    """Declare the training options; model classes may have other defaults.

    Options
    -------
    --split-key COLUMN
        Hold out whole groups of this column (donors, studies) for calibration and validation
        scores. Default: hold out cells within each label.
    --unlabeled-category NAME
        Label of unlabelled cells.
    --n-genes
        Maximum number of genes in the image.
    --layout
        Method that places the genes in the image.
    --backbone NAME
        compact, efficientnet_b0 to _b7, or _v2_s, _m, _l.
    --n-members N
        Number of networks in the ensemble, or auto.
    --validation-size
        Fraction of cells held out; types with few cells are not split.
    --max-epochs
        Number of epochs. Default: depends on the number of cells.
    --early-stopping
        Stop when the loss on held-out cells stops improving.
    --checkpoint DIR
        Folder for a checkpoint, from which the same command resumes an interrupted training. It
        is removed at the end.
    --seed
        Random seed.
    --accelerator
        auto, cpu, gpu or mps.
    """


_OPTIONS: Final = options_of(_training)
_DEFAULTS: Final = {name: each.default for name, each in _OPTIONS.items()} | {"batch_key": None}


@command("labels_keys", "layer", "use_raw", "batch_key", "overwrite", **_OPTIONS)
def train(
    reference: Path,
    labels_keys: list[str],
    layer: str | None,
    use_raw: bool,
    overwrite: bool,
    out: Path,
    taxonomy: Path | None = None,
    model: str = "schdeepinsight",
    settings: list[str] = [],  # noqa: B006
    cells: Path | None = None,
    **given: Any,
) -> None:
    """Train a model on a labelled reference, or a companion model without labels.

    [b]hdeepinsight train reference.h5ad --labels-keys lineage,cell_type --out my_model[/b]

    [b]hdeepinsight train cells.h5ad --model sce2tm --cells topics.csv --out my_topics[/b]

    Options
    -------
    reference REFERENCE
        Labelled reference with raw counts, such as an .h5ad.
    --out -o DIR
        Folder to save the model in.
    --taxonomy FILE
        Tree of cell types, .json, as written by Taxonomy.to_json. Default: the tree that the label
        columns define.
    --model NAME
        Model class: schdeepinsight, or a companion model.
    --settings KEY=VALUE
        Any other argument of the model class in Python, such as n_topics=50. Can be repeated.
    --cells FILE
        Write the cluster and the latent representation of each cell to this .csv, for models
        without labels.
    """
    with step("Reading the reference"):
        from hdeepinsight.data import open_store
        from hdeepinsight.models import HierarchicalClassifierMixin, ModelFolder
        from hdeepinsight.taxonomy import Taxonomy

        method = _class_named(model)
        name, is_classifier = method.__name__, issubclass(method, HierarchicalClassifierMixin)
        given_labels = "--labels-keys" if labels_keys else "--taxonomy" if taxonomy else ""
        refuse(
            {
                f"--out must be a folder for the model, got {out}, a file or the reference. Choose "
                "another name.": out.is_file() or out.resolve() == reference.resolve(),
                "No label column was given. Pass --labels-key COLUMN for cell types, or "
                "--labels-keys COARSE,...,FINE for one column per level. `hdeepinsight info "
                "REFERENCE` lists the columns.": is_classifier and not labels_keys,
                f"{name} learns without labels, got {given_labels}. Omit it.": (
                    given_labels and not is_classifier
                ),
                f"--cells is for a model that learns without labels, got {name}. To label cells, "
                "run hdeepinsight annotate.": cells and is_classifier,
                f"{out} already holds a model. Pass --overwrite to replace it, or choose another "
                "name.": ModelFolder(out).holds_model and not overwrite,
            }
        )
        require_writable(out)
        if cells is not None:
            kind: dict[str, Any] = {"option": "--cells", "formats": (".csv",)}
            check_output(cells, source=reference, overwrite=overwrite, **kind)
        options = {key: value for key, value in given.items() if value != _DEFAULTS[key]}
        options |= {"layer": layer, "seed": given["seed"]}
        if (members := options.get("n_members", "")).isdigit():
            options["n_members"] = int(members)
        if labels_keys:
            several = len(labels_keys) > 1
            options |= {"labels_keys": labels_keys} if several else {"labels_key": labels_keys[0]}
        store = open_store(reference)
        others = filter(None, (given["batch_key"], given["split_key"]))
        for key in (*labels_keys, *others):  # before the matrix is read
            one_column(store.obs, key)
        matrix = store.matrix(layer, use_raw)  # raises if it is missing
        if use_raw:
            adata = store.whole().raw.to_adata()
        elif matrix.storage.startswith("h5ad "):
            from anndata import read_h5ad

            adata = read_h5ad(reference, backed="r")  # only the genes of the model are read
        else:
            adata = store.whole()
        if taxonomy is not None:
            options["taxonomy"] = Taxonomy.from_json(taxonomy)
        setup, network, training = _distributed(method, options | _parsed(settings))
        method.setup_anndata(adata, **setup)
    trained = method(adata, **network)
    trained.train(**training)
    trained.save(out, overwrite=overwrite)
    show(repr(trained))
    if is_classifier and len(trained.validation_indices_):
        with step("Scoring held-out cells"):
            found = trained.evaluate()
        show(frame_table(found.levels, title=f"{found.n_cells:,} held-out cells"))
    elif is_classifier:
        missing = "" if trained.calibration else ", and the probabilities are not calibrated"
        note(
            f"no cells were held out, so there are no scores{missing}. Add cells of each type, or "
            "raise --validation-size.",
            "Note",
        )
    if cells is not None:
        import pandas as pd

        latent = pd.DataFrame(trained.get_latent_representation(), index=adata.obs_names)
        table = latent.add_prefix("latent_")
        table.insert(0, "cluster", trained.predict())
        with atomic_write(cells) as unfinished:
            table.to_csv(unfinished, index_label="cell")
        show(f"Cells in {cells}")
    show(f"Saved to {out}")
    if is_classifier:
        note(Text(f"Next: hdeepinsight annotate QUERY.h5ad --model {out}", style="dim"))


def _class_named(name: str) -> Any:
    """Return the model class of this name, ignoring case."""
    from hdeepinsight import models

    bases = models.CountModel, models.HierarchicalClassifierMixin
    found = [getattr(models, each) for each in models.__all__]
    found = [cls for cls in found if isinstance(cls, type) and issubclass(cls, bases[0])]
    names = {cls.__name__.lower(): cls for cls in found if cls not in bases}
    if name.lower() not in names:
        raise UsageProblem(f"--model must be one of {', '.join(names)}, got {name!r}.")
    return names[name.lower()]


def _parsed(settings: list[str]) -> dict[str, Any]:
    """Parse KEY=VALUE pairs, with values as JSON or else as text."""
    options: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageProblem(f"--settings must be KEY=VALUE, got {text!r}. Add the value.")
        try:
            options[key] = loads(value)
        except JSONDecodeError:
            options[key] = value
    return options


def _distributed(method: Any, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Split the options into those of set-up, constructor and training."""
    calls = method.setup_anndata, method.__init__
    known = [{*inspect.signature(call).parameters} - _PYTHON_ONLY for call in calls]
    training: set[str] = set()
    for train in (vars(cls)["train"] for cls in method.__mro__ if "train" in vars(cls)):
        names = {*inspect.signature(train).parameters}
        training |= names - _PYTHON_ONLY
        if "kwargs" not in names:  # no arguments for the base class
            break
    known.append(training)
    if unknown := ", ".join(sorted(set(options).difference(*known))):
        valid = ", ".join(sorted(set.union(*known)))
        raise UsageProblem(f"{method.__name__} has no option {unknown}. It has {valid}.")
    return [{key: value for key, value in options.items() if key in names} for names in known]
