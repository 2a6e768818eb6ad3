"""Train a model of any class on a file."""

from __future__ import annotations

import inspect
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any, Final, Literal

from rich.text import Text

from hdeepinsight._io import atomic_write
from hdeepinsight._progress import progress as step
from hdeepinsight.cli._console import UsageProblem, frame_table, note, show
from hdeepinsight.cli._files import require_columns, require_writable
from hdeepinsight.cli._options import REQUIRED, Argument, Option, OutputFolder, command

#: Arguments in Python that are no options here.
_OBJECTS: Final = {
    *("self", "adata", "registry", "source_registry", "datamodule", "trainer_kwargs"),
    *("datasplitter_kwargs", "plan_kwargs", "args", "kwargs"),
}
#: Options of which those at their default are left to the class, whose default may be another one.
_OPTIONS: Final = {
    "split_key": Option(
        str,
        None,
        "Hold out whole groups of this column (donors, studies) for calibration and the scores "
        "that are printed; by default cells are held out within every label.",
        "COLUMN",
    ),
    "unlabeled_category": Option(str, "Unknown", "Label that means: not known.", "NAME"),
    "n_genes": Option(int, 4096, "Most genes of the image.", settings={"min": 1}),
    "layout": Option(
        Literal["tsne", "tsne_published", "mde", "random"], "tsne", "How genes are placed."
    ),
    "backbone": Option(
        str, "compact", "compact, efficientnet_b0 to _b7, or _v2_s, _m, _l.", "NAME"
    ),
    "n_members": Option(
        str, "1", "Networks whose probabilities are averaged: a number, or auto.", "N"
    ),
    "validation_size": Option(
        float, 0.1, "Share of cells held out; rare types keep all.", settings={"min": 0, "max": 0.9}
    ),
    "max_epochs": Option(
        int, None, "Passes over the cells; chosen from their number.", settings={"min": 1}
    ),
    "early_stopping": Option(bool, False, "Stop when held-out cells get no better."),
    "checkpoint": Option(
        Path,
        None,
        "Folder for a checkpoint, from which the same command goes on after an interruption; it "
        "is removed at the end.",
        "DIR",
    ),
    "seed": Option(int, 0, "Same seed, same model.", settings={"min": 0}),
    "accelerator": Option(str, "auto", "auto, cpu, gpu or mps."),
}
_DEFAULTS: Final = {name: option.default for name, option in _OPTIONS.items()} | {"batch_key": None}


@command(
    "labels_keys",
    "layer",
    "use_raw",
    "batch_key",
    "overwrite",
    reference=Argument(Path, REQUIRED, "Labelled reference with raw counts, such as an .h5ad."),
    out=OutputFolder(REQUIRED, "Folder of the model."),
    taxonomy=Option(
        Path,
        None,
        "Tree of the cell types, .json, as Taxonomy.to_json writes it; by default the one that the "
        "label columns span.",
        "FILE",
    ),
    model=Option(
        str, "schdeepinsight", "Class of the model: schdeepinsight, or a companion.", "NAME"
    ),
    settings=Option(
        list[str],
        [],
        "Option of the class in Python that has none here, such as n_topics=50; may be repeated.",
        "KEY=VALUE",
    ),
    cells=Option(
        Path,
        None,
        "Cluster and latent position of every cell (.csv), of a model without labels.",
        "FILE",
    ),
    **_OPTIONS,
)
def train(
    reference: Path,
    out: Path,
    labels_keys: list[str],
    taxonomy: Path | None,
    layer: str | None,
    use_raw: bool,
    model: str,
    settings: list[str],
    cells: Path | None,
    overwrite: bool,
    **given: Any,
) -> None:
    """Train a model on a labelled reference, or one that learns without labels on any cells.

    [b]hdeepinsight train reference.h5ad --labels-keys lineage,cell_type --out my_model[/b]

    [b]hdeepinsight train cells.h5ad --model sce2tm --cells topics.csv --out my_topics[/b]
    """
    if out.is_file() or out.resolve() == reference.resolve():
        raise UsageProblem(
            f"--out must be a folder for the model, got {out}, a file or the reference."
        )
    with step("Reading the reference"):
        from hdeepinsight.data import open_store
        from hdeepinsight.models import HierarchicalClassifierMixin, ModelFolder
        from hdeepinsight.taxonomy import Taxonomy

        method = _class_named(model)
        is_classifier = issubclass(method, HierarchicalClassifierMixin)
        options = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
        options |= {"layer": layer, "seed": given["seed"]}
        if (members := options.get("n_members", "")).isdigit():
            options["n_members"] = int(members)
        if is_classifier:
            if not labels_keys:
                raise UsageProblem(
                    "No label column was given. Pass --labels-key COLUMN for cell types, or "
                    "--labels-keys COARSE,...,FINE for one column per level. `hdeepinsight info "
                    "REFERENCE` lists the columns."
                )
            options |= {"labels_keys": labels_keys} if labels_keys[1:] else {}
            options |= {} if labels_keys[1:] else {"labels_key": labels_keys[0]}
        elif labels_keys or taxonomy:
            raise UsageProblem(
                f"{method.__name__} learns without labels, got "
                f"{'--labels-keys' if labels_keys else '--taxonomy'}. Omit it."
            )
        if cells is not None and (is_classifier or cells.suffix != ".csv"):
            raise UsageProblem(
                f"--cells must be a .csv file, of a model that learns without labels, got {cells} "
                f"of {method.__name__}. For labels of cells: hdeepinsight annotate."
            )
        if ModelFolder(out).holds_model and not overwrite:
            raise UsageProblem(
                f"{out} holds a model already. Pass --overwrite to replace it, or another folder."
            )
        require_writable(out)
        if cells is not None:
            require_writable(cells, option="--cells")
        store = open_store(reference)
        others = filter(None, (given["batch_key"], given["split_key"]))
        require_columns(store.obs, [*labels_keys, *others], source=reference)
        adata = store.whole()
        if use_raw:
            store.matrix(layer, use_raw=True)  # says what is wrong, if something is
            adata = adata.raw.to_adata()
        if taxonomy is not None:
            options["taxonomy"] = Taxonomy.from_json(taxonomy)
        setup, network, training = _distributed(method, options | _parsed(settings))
        method.setup_anndata(adata, **setup)
    trained = method(adata, **network)
    trained.train(**training)
    trained.save(out, overwrite=overwrite)
    show(repr(trained))
    if is_classifier and len(trained.validation_indices_):
        with step("Scoring the cells held out"):
            found = trained.evaluate()
        show(frame_table(found.levels, title=f"{found.n_cells:,} cells held out"))
    elif is_classifier:
        missing = "" if trained.calibration else ", and the probabilities are not calibrated"
        note(
            f"no cells were held out, so there are no scores{missing}. Give every type more "
            "cells, or raise --validation-size.",
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
    """Return the class of models that has a name, in upper or lower case."""
    from hdeepinsight import models

    found = [getattr(models, each) for each in models.__all__]
    bases = models.CountModel, models.HierarchicalClassifierMixin
    classes = {
        cls.__name__.lower(): cls
        for cls in found
        if isinstance(cls, type) and issubclass(cls, models.CountModel) and cls not in bases
    }
    if name.lower() not in classes:
        raise UsageProblem(f"--model must be one of {', '.join(classes)}, got {name!r}.")
    return classes[name.lower()]


def _parsed(settings: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE, where a value is JSON or else a text."""
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
    """Give every option to the call that takes it: set-up, constructor or training."""
    calls = method.setup_anndata, method.__init__, method.train
    known = [{*inspect.signature(call).parameters} - _OBJECTS for call in calls]
    if unknown := sorted(set(options).difference(*known)):
        raise UsageProblem(
            f"{method.__name__} has no option {', '.join(unknown)}. It has "
            f"{', '.join(sorted(set.union(*known)))}."
        )
    return [{key: value for key, value in options.items() if key in names} for names in known]
