"""``hdeepinsight evaluate``, ``explain`` and ``info``: look into a model, or a file of data."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hdeepinsight._io import atomic_write
from hdeepinsight.cli import _options as opt
from hdeepinsight.cli._boundary import in_options, running
from hdeepinsight.cli._console import frame_table, show, step
from hdeepinsight.cli._files import check_output, is_store

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.explanation import Explanation

_SHOWN = 10
_MOST_VALUES = 6


def evaluate(
    query: Annotated[Path, typer.Argument(help="Labelled query, .h5ad or .zarr.")],
    model: opt.Model,
    labels_key: opt.LabelsKey = None,
    labels_keys: opt.LabelsKeys = None,
    unlabeled_category: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Label that means: not known; the model's by default."),
    ] = None,
    threshold: opt.Threshold = "0.5",
    layer: opt.Layer = None,
    use_raw: opt.UseRaw = False,
    scale: opt.ScaleOption = opt.Scale.auto,
    fold_case: opt.FoldCase = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    debug: opt.Debug = False,
) -> None:
    """Compare a model's labels with known ones, level by level.

    Labels are read from the columns that the model was trained on, unless others are named.

    [b]hdeepinsight evaluate query.h5ad --model my_model --labels-key cell_type[/b]
    """
    with running(debug=debug):
        given = opt.label_columns(labels_key, labels_keys)
        with step("Loading the model"):
            from hdeepinsight import hub

            loaded = hub.load_model(model)
        with step("Annotating"):
            evaluation = loaded.evaluate(
                query,
                labels_keys=given,
                unlabeled_category=unlabeled_category,
                layer=layer,
                use_raw=use_raw,
                scale=scale.value,
                fold_case=fold_case,
                threshold=opt.threshold_of(threshold),
            )
        if as_json:
            typer.echo(json.dumps(_without_nan(evaluation.to_dict()), indent=2))
            return
        title = f"{evaluation.n_cells:,} cells with known labels"
        show(frame_table(evaluation.levels, title=title), str(evaluation).splitlines()[-1])


def _without_nan(value: Any) -> Any:
    """Return plain types for JSON, which has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


#: What of a node is explained; see `SCHDeepInsight.explain`.
TargetChoice = StrEnum(
    "TargetChoice", {"conditional": "conditional", "joint": "joint", "logit": "logit"}
)


def explain(
    query: opt.Query,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where the rankings go, .csv.")
    ],
    model: opt.Model = "pbmc",
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Node of the taxonomy; give it again for more. By default each cell is explained "
            "for its own type.",
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="NAME", help="Node that the others are contrasted with.")
    ] = None,
    target: Annotated[
        TargetChoice,
        typer.Option(
            help="What tells a node from its siblings ([b]conditional[/b]), from everything else "
            "([b]joint[/b]), or its score before siblings are compared ([b]logit[/b])."
        ),
    ] = TargetChoice.conditional,
    background: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Cells to compare with; by default drawn from the mean profiles in the model.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Gradients per cell.")] = 50,
    layer: opt.Layer = None,
    use_raw: opt.UseRaw = False,
    scale: opt.ScaleOption = opt.Scale.auto,
    fold_case: opt.FoldCase = False,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Say which genes speak for a type.

    [b]hdeepinsight explain query.h5ad --model my_model --node "CD4 T" --out genes.csv[/b]

    The table has one row per node and gene, over the cells that the model puts at the node: mean
    and mean absolute attribution, their spread, expression in these cells and in the background.
    """
    with running(debug=debug):
        check_output(out, source=query, overwrite=overwrite, formats=(".csv",))
        with step("Loading the model"):
            import pandas as pd

            from hdeepinsight import hub

            loaded = hub.load_model(model)
        with step("Explaining"):
            found = loaded.explain(
                query,
                node or None,
                against=against,
                target=target.value,
                background=background,
                n_samples=samples,
                keep_values=False,
                layer=layer,
                use_raw=use_raw,
                scale=scale.value,
                fold_case=fold_case,
            )
            rankings = _rankings(found)
        with step(f"Writing {out}"), atomic_write(out) as path:
            table = pd.concat(rankings, names=["node", "gene"]).reset_index()
            table.to_csv(path, index=False)
        for name, table in rankings.items():
            top = table.rename_axis("gene").drop(columns="rank").head(_SHOWN)
            show(frame_table(top, title=name))
        show(repr(found), f"Written to {out}")


def _rankings(found: Explanation) -> dict[str, pd.DataFrame]:
    """Rank the genes of every node that some cell is at; raises ``ValueError`` if there is none."""
    n_cells = found.totals["own"].n_cells
    if not (names := [name for name, n in zip(found.nodes, n_cells, strict=True) if n]):
        raise ValueError(
            f"The model puts none of the {len(found.obs_names):,} cells at {', '.join(found.nodes)}"
            ". Annotate the query to see its types, or leave out --node."
        )
    return {name: found.ranking(name) for name in names}


def info(
    target: Annotated[
        Path,
        typer.Argument(help="Folder of a model, or pbmc, the bundled one; an .h5ad or .zarr file."),
    ],
    layer: opt.Layer = None,
    use_raw: opt.UseRaw = False,
    debug: opt.Debug = False,
) -> None:
    """Say what a model, or a data file, holds.

    [b]hdeepinsight info my_model[/b]
    """
    with running(debug=debug):
        if not target.exists():
            from hdeepinsight import hub

            target = hub.bundled_folder(str(target)) or target
        if target.is_dir() and not is_store(target):
            _show_model(target)
        else:
            _show_data(target, layer, use_raw)


def _show_model(folder: Path) -> None:
    with step("Loading the model"):
        from hdeepinsight import hub

        model = hub.load_model(folder)
    table = Table(title="recipe", title_justify="left", title_style="bold", show_header=False)
    for name, value in model.recipe.items():
        table.add_row(Text(str(name)), Text("–" if value is None else str(value)))
    show(repr(model), "", model.taxonomy, "", table)


def _show_data(path: Path, layer: str | None, use_raw: bool) -> None:
    with step("Looking at every value"):
        from hdeepinsight.data import inspect_input, open_store

        report = inspect_input(path, layer=layer, use_raw=use_raw)
        store = open_store(path)
    said = in_options(str(report))
    show(said, "", f"matrices  {', '.join(store.slots)}", Text("obs columns", style="bold"))
    for name in store.obs:
        distinct = store.obs[name].dropna().unique()
        shown = ", ".join(map(str, distinct[:_MOST_VALUES]))
        more = f", ... ({len(distinct):,} values)" if len(distinct) > _MOST_VALUES else ""
        show(f"  {name}: {shown}{more}")
