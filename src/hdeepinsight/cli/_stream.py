"""Stream the labels of a query to disk in blocks; resume, split and merge such runs."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from hdeepinsight import __version__
from hdeepinsight._errors import counted, need_extra
from hdeepinsight._io import atomic_write, remove, sha256
from hdeepinsight._progress import progress as step
from hdeepinsight._progress import tracked
from hdeepinsight.cli._console import UsageProblem, in_options, show
from hdeepinsight.cli._files import check_output
from hdeepinsight.cli._options import READING, command

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation

#: File formats that can be streamed.
FORMATS: Final = (".parquet", ".csv")
_SETTINGS: Final = "settings.json"


def parse_part(text: str) -> tuple[int, int]:
    """Parse I/N, the number of a part and that of all parts."""
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise typer.BadParameter(f"it must be I/N with I from 1 to N, such as 3/8, got {text!r}.")
    return int(i), int(n)


def annotate_blocks(
    query: Path,
    out: Path,
    *,
    report: Path | None,
    shown: dict[str, bool],
    part: tuple[int, int] | None,
    client: Any,
    resume: bool,
    overwrite: bool,
    model: str,
    types: list[str] | None,
    exclude: list[str],
    fast: bool,  # which is implied
    strict: bool,
    **options: Any,
) -> Annotation:
    """Write the labels of a query, or of one part of it, in blocks, here or on workers.

    Each block is written atomically to a table in the folder ``out.blocks``. A complete run merges
    them into ``out``.

    Returns
    -------
    An annotation whose verdict is based on cells sampled from the whole query.

    Raises
    ------
    UsageProblem
        If an option needs all cells at once, or ``out`` or its blocks are of another run.
    """
    needs_all = [f"--{name} on" for name in ("adapt", "refine") if options.pop(name) == "on"]
    needs_all += [f"--{name}" for name in ("vote", "batch_key", "markers") if options.pop(name)]
    needs_all += ["--report"] * (report is not None)
    if needs_all:
        raise UsageProblem(
            f"{', '.join(needs_all).replace('_', '-')} needs all cells at once, which streaming "
            "does not keep in memory. Omit it, or write to .h5ad or .zarr."
        )
    may_exist = overwrite or (resume and _record(out).exists())
    check_output(out, source=query, overwrite=may_exist, formats=FORMATS)
    if out.suffix == ".parquet":
        need_extra("pyarrow", "parquet", "Writing .parquet")
    if client is not None:  # workers have other working directories
        query, out = query.absolute(), out.absolute()
    with step("Opening the query"):
        from hdeepinsight import hub
        from hdeepinsight._distributed import check_workers
        from hdeepinsight.data import CHUNK_CELLS, SAMPLE_CELLS, open_store, spread_rows

        store = open_store(query)
        n_cells, names = len(store.obs), (store.obs.index, store.var.index)
    with step("Loading the model"):
        folder = hub.resolve_model(model)
        from hdeepinsight.models import Annotator

        loaded = hub.load_annotator(folder)
    some = store.matrix(options["layer"], options["use_raw"])
    some = some.take(spread_rows(n_cells, SAMPLE_CELLS))
    counts = [part for _, block in some.blocks(CHUNK_CELLS) for part in _arrays(block)]
    settings = {
        "hdeepinsight": __version__,
        "model": [sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()],
        "query": [
            *(sha256("\n".join(map(str, n)).encode()) for n in names),
            *(sha256(part.tobytes()) for part in counts),
        ],
        "options": [options, shown, types, exclude],
        "n_cells": n_cells,
    }
    starts = range(0, n_cells, CHUNK_CELLS)
    i, n = part or (1, 1)
    mine = starts[len(starts) * (i - 1) // n : len(starts) * i // n]
    settings = json.loads(json.dumps(settings))
    finished = resume and _is_finished(out, settings, overwrite)
    left = range(0) if finished else _begin(out, settings, mine, part, resume, overwrite)
    if client is not None and not finished:
        check_workers(client, query, _block(out, 0).with_name(_SETTINGS))
    opened = loaded.open(store, **{name: options.pop(name) for name in READING})
    rows = range(left.start, min(left.stop, n_cells))
    allowed = {"types": types, "exclude": exclude}
    write = partial(_write, out=out, shown=shown, allowed=allowed)
    block: Annotation | None = None
    if client is not None and left:
        _write_on(client, Annotator.of(loaded).blocks(opened, **options), rows, write, resume)
    elif left:
        found = loaded.annotate_blocks(opened, None if len(rows) == n_cells else rows, **options)
        for first, block in zip(left, found, strict=True):
            block = write(first, block)
    sample = opened.sample_rows()
    if block is None:  # all blocks exist: annotate the sample again for the verdict
        block = loaded.annotate(opened.subset(sample), **options)
    if part is None and not finished:
        merge_blocks(out)
    n_sampled = counted(len(sample), "cell")
    show(f"Cells were labelled independently; the verdict is based on {n_sampled}.")
    show(*(in_options(str(text)) for text in (block.gene_report, block.verdict) if text))
    joins = f"hdeepinsight merge {out} joins all parts once they have finished"
    written = f"Part {i} of {n} is written; {joins}" if part else f"Written to {out}"
    show(f"{out} is complete and was left unchanged" if finished else written)
    return block


def _arrays(block: Any) -> tuple[Any, ...]:
    """Return the arrays of a dense or sparse matrix."""
    is_sparse = hasattr(block, "indptr")
    return (block.data, block.indices, block.indptr) if is_sparse else (block,)


def _write(
    first: int, block: Annotation, *, out: Path, shown: dict[str, bool], allowed: dict[str, Any]
) -> Annotation:
    """Write the labels of a block, and return it, restricted to the allowed types."""
    block = block.restricted(**allowed)
    table = block.to_frame(**shown).rename_axis("cell")
    with atomic_write(_block(out, first)) as path:
        if out.suffix == ".csv":
            table.to_csv(path)
        else:
            table = table.reset_index()
            text = {name: "string" for name in table if table[name].dtype.kind not in "biuf"}
            table.astype(text).to_parquet(path, index=False)
    return block


def _write_on(client: Any, blocks: Any, rows: range, write: Any, resume: bool) -> None:
    """Write blocks on the workers of a cluster; skip existing ones if the run is resumed."""
    from hdeepinsight import _distributed as distributed
    from hdeepinsight.data import CHUNK_CELLS

    out = write.keywords["out"]
    jobs = [
        job
        for job in distributed.jobs_of(rows.stop, rows.start)
        if not (resume and all(_block(out, k).exists() for k in job[::CHUNK_CELLS]))
    ]
    names = blocks.opened.obs_names
    done = distributed.on_workers(client, blocks, jobs, partial(_label, write), names)
    for _ in tracked(done, "Annotating", sum(map(len, jobs)), size=lambda part: len(part[0])):
        pass


def _label(write: Any, blocks: Any, rows: range, names: Any) -> None:
    from hdeepinsight.data import CHUNK_CELLS

    for first, block in zip(rows[::CHUNK_CELLS], blocks.annotations(rows, names), strict=True):
        write(first, block)


def _block(out: Path, first: int) -> Path:
    return out.with_name(f"{out.name}.blocks") / f"{first:012d}{out.suffix}"


def _remove_blocks(out: Path) -> None:
    """Remove the blocks of a run, and their folder unless it holds other files."""
    folder = _block(out, 0).parent
    for name in ("[0-9]" * 12 + out.suffix, _SETTINGS, ".unfinished-*"):
        for path in folder.glob(name):
            remove(path)
    with suppress(OSError):
        folder.rmdir()


def _record(out: Path) -> Path:
    """Return the file with the settings and the digest of a finished output."""
    return out.with_name(f"{out.name}.{_SETTINGS}")


def _is_finished(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Return whether ``out`` is the finished output of a run with these settings."""
    if not (out.exists() and _record(out).exists()):
        return False
    found = {**settings, "output": sha256(out)}
    changed = _changed(_record(out), found)
    if changed and not overwrite:
        raise UsageProblem(
            f"{out} already exists, and differs from a finished run with these settings in "
            f"{' and '.join(changed)}. Choose another --out, or pass --overwrite to start over."
        )
    return not changed


def _changed(at: Path, settings: dict[str, Any]) -> list[str]:
    """Return the names of the settings that differ from those in a file."""
    known = json.loads(at.read_text())
    return [name for name, value in settings.items() if known.get(name) != value]


def _begin(
    out: Path, settings: Any, mine: range, part: Any, resume: bool, overwrite: bool
) -> range:
    """Return the first cell of each block that remains to be written."""
    at = _block(out, 0).with_name(_SETTINGS)
    if overwrite and part is None and not resume:
        _remove_blocks(out)
    if at.exists():
        if changed := _changed(at, settings):
            raise UsageProblem(
                f"{at.parent} was written by a run that differs in {' and '.join(changed)}. Choose "
                "another --out, or remove that folder to start over."
            )
    else:
        with atomic_write(at) as path:
            path.write_text(json.dumps(settings))
    done = 0
    while done < len(mine) and _block(out, mine[done]).exists():
        done += 1
    if done and not resume and not overwrite:
        raise UsageProblem(
            f"{at.parent} already holds {done:,} of {counted(len(mine), 'block')}. Pass --resume "
            "to continue, or --overwrite to start over."
        )
    return mine[done if resume else 0 :]


def merge_blocks(out: Path) -> None:
    """Merge the blocks of all parts into one file, and remove them.

    Raises
    ------
    UsageProblem
        If blocks are missing.
    """
    from hdeepinsight.data import CHUNK_CELLS

    at = _block(out, 0).with_name(_SETTINGS)
    if not at.exists():
        raise UsageProblem(
            f"No blocks of {out} were found: {at.parent} does not exist. Pass the --out of the "
            "parts."
        )
    settings = json.loads(at.read_text())
    blocks = [_block(out, k) for k in range(0, settings["n_cells"], CHUNK_CELLS)]
    if missing := [block for block in blocks if not block.exists()]:
        raise UsageProblem(
            f"{len(missing):,} of {counted(len(blocks), 'block')} not written yet, the first is "
            f"{missing[0].name}. Run the unfinished parts again with --resume."
        )
    with step(f"Writing {out}"), atomic_write(out) as path:
        if out.suffix == ".csv":
            with path.open("wb") as whole:
                for k, block in enumerate(blocks):
                    with block.open("rb") as lines:
                        if k:
                            lines.readline()  # skip the header
                        shutil.copyfileobj(lines, whole)
        else:
            from pyarrow import parquet

            with parquet.ParquetWriter(path, parquet.read_schema(blocks[0])) as whole:
                for block in blocks:
                    whole.write_table(parquet.read_table(block))
    with atomic_write(_record(out)) as path:
        path.write_text(json.dumps({**settings, "output": sha256(out)}))
    _remove_blocks(out)


@command("overwrite")
def merge(out: Path, overwrite: bool) -> None:
    """Join the labels that hdeepinsight annotate --part wrote, once all parts have finished.

    [b]hdeepinsight merge labels.csv[/b]

    Options
    -------
    out FILE
        The --out of the parts.
    """
    if out.exists() and not overwrite:
        raise UsageProblem(f"{out} already exists. Pass --overwrite to replace it.")
    merge_blocks(out)
    show(f"Written to {out}")
