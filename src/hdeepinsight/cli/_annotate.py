"""Commands that apply a model to a query: ``annotate``, ``evaluate`` and ``explain``."""

from __future__ import annotations

from inspect import signature
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from hdeepinsight._errors import counted
from hdeepinsight._io import atomic_write
from hdeepinsight._progress import progress as step
from hdeepinsight.cli import _files
from hdeepinsight.cli._console import RED, frame_table, in_options, note, refuse, show
from hdeepinsight.cli._options import ANNOTATING, READING, Names, command
from hdeepinsight.cli._stream import annotate_blocks, parse_part

if TYPE_CHECKING:
    from rich.table import Table

    from hdeepinsight.annotation import Annotation

#: Rows of the tables that are printed.
_MAX_LABELS, _MAX_GENES = 40, 10


@command("query", *ANNOTATING, "overwrite")
def annotate(
    query: Path,
    *,
    out: Path | None = None,
    report: Path | None = None,
    key_added: str = "hdi",
    details: bool = False,
    fill: bool = True,
    stream: bool = False,
    resume: bool = False,
    part: Annotated[Any, {"parser": parse_part}] = None,
    scheduler: str | None = None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Label every cell of a query at every level.

    [b]hdeepinsight annotate query.h5ad --model my_model --out annotated.h5ad[/b]

    Without [b]--model[/b], the bundled model of human blood cells is used. The command prints
    which steps were applied and whether the query resembles the model's reference. It has the
    defaults of hdeepinsight.annotate in Python; [b]--fast[/b] labels each cell independently.
    [b]--markers blood[/b], or a list of your own, labels the cells by marker genes instead of a
    model.

    Options
    -------
    --out -o FILE
        Output file: .h5ad or .zarr for a copy of the query with the labels added, .h5mu for a
        copy of a MuData, .csv for a table of labels. Default: query.annotated.h5ad, next to
        query.h5ad; query.annotated.csv for large queries.
    --report FILE
        Also write an HTML report of the result.
    --key-added NAME
        Prefix of the added columns.
    --details
        Also write the confidence and the runner-up at each level, and all scores.
    --fill
        Repeat a label at the levels below it, or leave those missing.

    Large queries
    -------------
    --stream
        Write labels in blocks to .csv or .parquet, in constant memory; cells are labelled
        independently, as with [b]--fast[/b]. Always on for .parquet.
    --resume
        Continue an interrupted run of --stream; a finished one is left unchanged, which is
        recognised by FILE.settings.json, a small file next to the output.
    --part I/N
        Annotate only this part of the query, such as [b]3/8[/b] in a job array; [b]hdeepinsight
        merge[/b] joins the parts.
    --scheduler ADDRESS
        Annotate on the workers of a dask cluster, such as [b]tcp://host:8786[/b]. Query and --out
        must have the same paths on all workers.
    """
    steps = {f"--{name} on": options[name] == "on" for name in ("adapt", "refine")}
    steps["--batch-key"] = options["batch_key"] is not None
    given = ", ".join(name for name, is_given in steps.items() if is_given)
    kept = query.suffix if query.suffix in (".zarr", ".h5mu") else ".h5ad"
    kept = ".h5mu" if (query / "mod").is_dir() else kept
    in_blocks = stream or resume or part or scheduler
    out = out or _files.default_output(query, f".annotated{'.csv' if in_blocks else kept}")
    refuse(
        {
            f"--fast labels each cell independently, got {given} as well. Omit one or the other.": (
                options["fast"] and given
            ),
            f"--key-added is the prefix of columns in a copy of the query, got the table {out}, "
            "whose columns have none. Omit it.": (
                out.suffix in (".csv", ".parquet") and key_added != "hdi"
            ),
        }
    )
    if in_blocks or out.suffix == ".parquet":
        from hdeepinsight._distributed import connected

        how: dict[str, Any] = {"part": part, "resume": resume, "overwrite": overwrite}
        how["shown"] = {"fill": fill, "details": details}
        with connected(scheduler) as client:
            sample = annotate_blocks(query, out, report=report, client=client, **how, **options)
        _exit_if_red(sample, options["strict"])
        return
    _files.check_output(out, source=query, overwrite=overwrite)
    if report is not None:
        page: dict[str, Any] = {"option": "--report", "formats": (".html",)}
        _files.check_output(report, source=query, overwrite=overwrite, **page)
    with step("Opening the query"):
        import hdeepinsight as hdi
        from hdeepinsight import hub

        store = _files.open_cells(query)
        write = _files.prepare_output(store, source=query, out=out, key_added=key_added)
    model, folder, reference = options["model"], None, None
    if options["markers"] is None:
        with step("Loading the model"):
            folder = hub.resolve_model(model)
            options["model"] = reference = hub.load_annotator(folder)
    strict, vote = options.pop("strict"), options.pop("vote") or False
    if options.pop("fast"):
        options |= {"adapt": "off", "refine": "off"}
    result = hdi.annotate(store, vote=vote, **options)
    with step(f"Writing {out}"):
        write(result, fill=fill, details=details)
    if report is not None:
        heading, named = f"Cell types of {query.name}", reference and model
        shown: dict[str, Any] = {"query": store, "reference": reference, "model": named}
        with step(f"Writing {report}"):
            hdi.report.write(result, report, title=heading, **shown)
    if folder in hub.bundled_folders().values():
        show(f"Model {model} comes with the package; --model selects another.")
    messages = (result.input_report, result.gene_report, *result.decisions)
    texts = [in_options(str(each)) for each in messages if each is not None]
    if options["markers"] is not None:
        texts = [text.replace("model genes measured", "marker genes measured") for text in texts]
    show(*texts)
    if result.calibration_note:
        show(f"The probabilities are {result.calibration_note}.")
    show(_composition(result))
    if result.verdict is not None:
        text, light = Text(str(result.verdict)), result.verdict.light
        text.stylize(f"bold {light}", 0, len(light))
        show(text)
    show(f"Written to {out}" if report is None else f"Written to {out} and {report}")
    hints = []
    if out.suffix != ".csv":
        columns = [f"{key_added}_{level}" for level in (*result.taxonomy.level_names, "stop_label")]
        hints.append(f"The labels are in obs: {', '.join(columns)}.")
    if report is None:
        hints.append("Pass --report page.html for a report with the evidence for each label.")
    if hints:
        note(Text(" ".join(hints), style="dim"))
    _exit_if_red(result, strict)


def _composition(result: Annotation) -> Table:
    """Return a table of the labels with their number of cells and mean confidence."""
    levels = list(result.taxonomy.level_names)
    frame = result.labels[levels].astype(str).assign(confidence=result.confidence.to_numpy())
    frame.loc[result.stop_nodes == 0, "confidence"] = float("nan")  # cells without a label
    groups = frame.groupby(levels, sort=False)["confidence"]
    table = groups.agg(cells="size", share=lambda own: f"{len(own) / len(result):.1%}")
    table = table.assign(confidence=groups.mean()).reset_index()
    table = table.sort_values("cells", ascending=False, kind="stable")
    title = f"{counted(len(result), 'cell')} by label"
    shown = frame_table(table.head(_MAX_LABELS).set_index(levels[0]), title=title)
    if rest := len(table[_MAX_LABELS:]):
        shown.caption = f"and {counted(rest, 'more label')}"
    return shown


def _exit_if_red(result: Annotation, strict: bool) -> None:
    """Exit with code 3 if the verdict is red and ``--strict`` was passed."""
    if strict and result.verdict is not None and result.verdict.light == "red":
        note(f"{result.verdict.sentences[0]} (--strict)", "Error")
        raise typer.Exit(RED)


@command("query", "model", "labels_keys", "threshold", *READING)
def evaluate(
    query: Path,
    model: str,
    *,
    unlabeled_category: str | None = None,
    json: bool = False,
    **options: Any,
) -> None:
    """Score a model's labels against known labels at each level.

    Known labels are read from the columns that the model was trained on, unless others are given.

    [b]hdeepinsight evaluate query.h5ad --model my_model --labels-key cell_type[/b]

    Options
    -------
    --unlabeled-category NAME
        Label of unlabelled cells. Default: that of the model.
    --json
        Print JSON instead of a table.
    """
    with step("Loading the model"):
        from hdeepinsight import hub

        loaded = hub.load_annotator(model)
    with step("Annotating"):
        cells, keys = _files.open_cells(query), options.pop("labels_keys") or None
        known = {"labels_keys": keys, "unlabeled_category": unlabeled_category}
        found = loaded.evaluate(cells, **known, **options)
    if json:  # JSON has no NaN
        typer.echo(dumps(loads(dumps(found.to_dict()), parse_constant=lambda _: None), indent=2))
        return
    title = f"{counted(found.n_cells, 'cell')} with known labels"
    show(frame_table(found.levels, title=title), str(found).splitlines()[-1])


@command("query", "model", *READING, "overwrite")
def explain(
    query: Path,
    model: str,
    overwrite: bool,
    out: Path,
    nodes: Names = "",
    against: str | None = None,
    target: Literal["conditional", "joint", "logit"] = "conditional",
    background: Path | None = None,
    n_samples: Annotated[int | None, {"min": 1}] = None,
    **options: Any,
) -> None:
    """Rank the genes that support a cell type.

    [b]hdeepinsight explain query.h5ad --model my_model --nodes "CD4 T" --out genes.csv[/b]

    The table has one row per node and gene, computed over the cells that the model assigns to the
    node: mean and mean absolute attribution with their spread, and the expression in these cells
    and in the background.

    Options
    -------
    --out -o FILE
        Output file, .csv.
    --nodes A,B,...
        Nodes of the taxonomy. Default: each cell is explained for its predicted type.
    --against NAME
        Node to contrast the others with.
    --target
        Quantity to explain: the log-probability of a node given its parent
        ([b]conditional[/b]), its log-probability ([b]joint[/b]), or its logit ([b]logit[/b]).
    --background FILE
        Background cells. Default: sampled from the mean profiles in the model.
    --n-samples
        Gradients per cell. Default: that of the model.
    """
    _files.check_output(out, source=query, overwrite=overwrite, formats=(".csv",))
    with step("Loading the model"):
        import pandas as pd

        from hdeepinsight import hub

        loaded = hub.load_model(model, with_types=True)
    with step("Explaining"):
        further = {"against": against, "background": background, "n_samples": n_samples}
        options |= {name: value for name, value in further.items() if value is not None}
        unknown = sorted(set(options).difference(signature(loaded.explain).parameters, READING))
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in unknown)
        refuse({f"{type(loaded).__name__} has no option {listed}. Omit it.": unknown})
        found = loaded.explain(query, nodes or None, target=target, keep_values=False, **options)
    n_cells = found.totals["own"].n_cells
    names = [name for name, n in zip(found.nodes, n_cells, strict=True) if n]
    if not names:
        raise ValueError(
            f"None of the {len(found.obs_names):,} cells is assigned to {', '.join(found.nodes)}. "
            "Annotate the query to see its types, or omit --nodes."
        )
    rankings = {name: found.ranking(name) for name in names}
    with step(f"Writing {out}"), atomic_write(out) as path:
        pd.concat(rankings, names=["node", "gene"]).reset_index().to_csv(path, index=False)
    for name, table in rankings.items():
        top = table.rename_axis("gene").drop(columns="rank").head(_MAX_GENES)
        show(frame_table(top, title=name))
    show(repr(found), f"Written to {out}")
