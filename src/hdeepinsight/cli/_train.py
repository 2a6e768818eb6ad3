"""``hdeepinsight train`` and ``demo``: a labelled reference in, a model out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from hdeepinsight.cli import _options as opt
from hdeepinsight.cli._boundary import UsageProblem, running
from hdeepinsight.cli._console import errors, frame_table, show, step, training_progress
from hdeepinsight.cli._files import read_anndata, require_columns, require_writable

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy

#: Class of the models that the command trains, as the registry of models has it.
_METHOD: Final = "SCHDeepInsight"


#: How genes are placed on the image.
Layout = StrEnum("Layout", {"tsne": "tsne", "umap": "umap", "mde": "mde", "random": "random"})


def train(
    reference: Annotated[Path, typer.Argument(help="Labelled reference, .h5ad or .zarr.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the model.")],
    labels_key: opt.LabelsKey = None,
    labels_keys: opt.LabelsKeys = None,
    taxonomy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Tree of the cell types, .json (as Taxonomy.to_json writes it) or .newick; by "
            "default the one that the label columns span.",
        ),
    ] = None,
    layer: opt.Layer = None,
    use_raw: opt.UseRaw = False,
    batch_key: opt.BatchKey = None,
    split_key: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Hold out whole groups of this column (donors, studies) for calibration and the "
            "scores that are printed; by default cells are held out within every label.",
        ),
    ] = None,
    unlabeled_category: Annotated[
        str, typer.Option(metavar="NAME", help="Label that means: not known.")
    ] = "Unknown",
    n_genes: Annotated[int, typer.Option(min=1, help="Most genes of the image.")] = 4096,
    layout: Annotated[Layout, typer.Option(help="How genes are placed.")] = Layout.tsne,
    backbone: Annotated[
        str, typer.Option(metavar="NAME", help="compact, efficientnet_b0 to _b7, or _v2_s, _m, _l.")
    ] = "compact",
    validation_size: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of cells held out; rare types keep all.")
    ] = 0.1,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the cells; chosen from their number.")
    ] = None,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="Stop when held-out cells get no better.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for a checkpoint, from which the same command goes on after an "
            "interruption; it is removed at the end.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same model.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu or mps.")] = "auto",
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Train a model on a labelled reference.

    [b]hdeepinsight train reference.h5ad --labels-keys lineage,cell_type --out my_model[/b]
    """
    with running(debug=debug):
        if not (columns := opt.label_columns(labels_key, labels_keys)):
            raise UsageProblem(
                "No label column was given. Pass --labels-key COLUMN for cell types, or "
                "--labels-keys COARSE,...,FINE for one column per level. `hdeepinsight info "
                "REFERENCE` lists the columns."
            )
        _check_folder(out, source=reference, overwrite=overwrite)
        with step("Reading the reference"):
            from hdeepinsight.data import open_store
            from hdeepinsight.models import model_class

            method = model_class(_METHOD)

            adata = read_anndata(reference)
            if use_raw:
                open_store(adata).matrix(layer, use_raw=True)  # says what is wrong, if something is
                adata = adata.raw.to_adata()
            wanted = [*columns, *(name for name in (batch_key, split_key) if name)]
            require_columns(adata.obs, wanted, source=reference)
            tree = _read_taxonomy(taxonomy)
            keys = {"labels_keys": columns} if columns[1:] else {"labels_key": columns[0]}
            method.setup_anndata(
                adata,
                layer=layer,
                batch_key=batch_key,
                unlabeled_category=unlabeled_category,
                **keys,
            )
        with step("Placing the genes"):
            model = method(
                adata,
                taxonomy=tree,
                layout=layout.value,
                n_genes=n_genes,
                backbone=backbone,
                seed=seed,
            )
        with training_progress() as watched:
            model.train(
                max_epochs,
                validation_size=validation_size,
                split_key=split_key,
                early_stopping=early_stopping,
                accelerator=accelerator,
                checkpoint=checkpoint,
                **watched,
            )
        model.save(out, overwrite=overwrite)
        _report(model, out)


def _check_folder(out: Path, *, source: Path, overwrite: bool) -> None:
    """Refuse the folder before any work is done."""
    if out.is_file() or out.resolve() == source.resolve():
        raise UsageProblem(
            f"--out must be a folder for the model, got {out}, a file or the reference."
        )
    from hdeepinsight.models import ModelFolder

    if ModelFolder(out).holds_model and not overwrite:
        raise UsageProblem(
            f"{out} holds a model already. Pass --overwrite to replace it, or another folder."
        )
    require_writable(out)


def _read_taxonomy(path: Path | None) -> Taxonomy | None:
    from hdeepinsight.taxonomy import Taxonomy

    if path is None:
        return None
    if path.suffix in (".nwk", ".newick", ".tree"):
        return Taxonomy.from_newick(path.read_text(encoding="utf-8"))
    return Taxonomy.from_json(path)


def _report(model: Any, out: Path) -> None:
    show(repr(model))
    if len(model.validation_indices_):
        with step("Scoring the cells held out"):
            evaluation = model.evaluate()
        show(frame_table(evaluation.levels, title=f"{evaluation.n_cells:,} cells held out"))
    else:
        errors().print(
            "[bold yellow]Note:[/] no cells were held out, so there are no scores, and the "
            "probabilities are not calibrated. Give every type more cells, or raise "
            "--validation-size."
        )
    show(f"Saved to {out}")
    hint = f"Next: hdeepinsight annotate QUERY.h5ad --model {out} --out annotated.h5ad"
    errors().print(Text(hint, style="dim"))


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for everything it makes.")
    ] = Path("demo_out"),
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    debug: opt.Debug = False,
) -> None:
    """Train and annotate real blood cells, offline, and draw what came out.

    Running it again replaces what an earlier run left in the folder.
    """
    with running(debug=debug):
        from hdeepinsight.cli._demo import run_demo

        run_demo(out, seed=seed)
