"""Leave a type or a lineage out of the reference: who notices, where do its cells stop.

Every (pair, left-out label, method) is a process of its own on the same files, as in ``run.py``;
rows that are there already are kept. The labels of the query are read here alone.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
from harness.execute import RunFailed, Runner
from harness.genes import select_genes
from harness.pairs import Pair, read_pairs
from harness.prepare import N_GENES, Prepared, prepare
from harness.records import Records
from harness.registry import Spec
from harness.scoring import auroc
from harness.tree import LabelTree

HERE = Path(__file__).resolve().parent
logger = logging.getLogger("benchmarks")

BEGIN, END = "<!-- novelty: begin -->", "<!-- novelty: end -->"
#: Columns of the table of rules.
SHARES = {
    "novel_at_ancestor": "new cells: stop at the right ancestor",
    "novel_at_root": "new cells: root",
    "known_at_root": "known cells: root",
    "known_right": "known cells: right type",
    "known_never_wrong": "known cells: right or stopped above",
}

METHODS = (
    Spec(
        "schdeepinsight",
        "SCHDeepInsight",
        "ours",
        "rejecting:OursRejecting",
        packages=("hdeepinsight", "torch"),
    ),
    Spec(
        "celltypist",
        "CellTypist, probability threshold 0.5",
        "peer",
        "rejecting:CellTypistThreshold",
        environment="celltypist",
        packages=("celltypist",),
    ),
    Spec(
        "schpl",
        "scHPL, rejection",
        "peer",
        "schpl_peer:ScHPL",
        environment="schpl",
        packages=("scHPL",),
    ),
)


@dataclass(frozen=True)
class LeftOut:
    """A label that the reference loses: at the first level a lineage, else a type."""

    pair: str
    level: str
    label: str

    @property
    def name(self) -> str:
        """Name of the pair without that label."""
        return f"{self.pair}_without_{''.join(c if c.isalnum() else '_' for c in self.label)}"


LEFT_OUT = (
    LeftOut("zheng_to_pbmc3k", "lineage", "B"),
    LeftOut("kang_donors", "lineage", "NK"),
    LeftOut("bm_donors", "lineage", "Erythroid/Mk"),
    LeftOut("zheng_to_pbmc3k", "cell_type", "CD8 T"),
    LeftOut("kang_donors", "cell_type_fine", "CD16 Mono"),
    LeftOut("bm_donors", "cell_type_fine", "Classical Monocytes"),
)


def without(prepared: Prepared, left_out: LeftOut) -> Prepared:
    """Write the files of a pair whose reference lacks a label; the query stays as it is."""
    pair = replace(prepared.pair, name=left_out.name)
    reduced = Prepared(pair, prepared.folder.with_name(left_out.name))
    if reduced.genes.exists():
        return reduced
    (reduced.folder / "truth").mkdir(parents=True, exist_ok=True)
    reference = ad.read_h5ad(prepared.reference)
    reference = reference[(reference.obs[left_out.level] != left_out.label).to_numpy()].copy()
    reference.write_h5ad(reduced.reference)
    ad.read_h5ad(prepared.query).write_h5ad(reduced.query)
    prepared.truth().to_csv(reduced.folder / "truth" / "labels.csv", index=False)
    reduced.genes.write_text(json.dumps(select_genes(reference, N_GENES)))
    return reduced


def rows(prepared: Prepared, left_out: LeftOut, spec: Spec, seed: int, folder: Path) -> list[dict]:
    """One row a rule and one a score of a method."""
    truth, pair = prepared.truth(), prepared.pair
    novel = (truth[left_out.level] == left_out.label).to_numpy()
    known = _known(truth, prepared) & ~novel
    run = {"pair": left_out.pair, "left_out": left_out.label, "level": left_out.level}
    run |= {"kind": "lineage" if left_out.level == pair.levels[0] else "type"}
    run |= {"method": spec.name, "seed": seed}
    run |= {"n_novel": int(novel.sum()), "n_known": int(known.sum())}
    depth = pair.levels.index(left_out.level)
    true = truth.to_numpy(dtype=object)
    expected = np.where(np.arange(len(pair.levels)) < depth, true, "")
    records = []
    for name, labels in _rules(folder).items():
        at_ancestor = (labels == expected).all(axis=1)
        reached = labels != ""
        records.append(
            run
            | {
                "rule": name,
                "novel_at_ancestor": float(at_ancestor[novel].mean()),
                "novel_at_root": float((~reached[novel, 0]).mean()),
                "known_at_root": float((~reached[known, 0]).mean()),
                "known_right": float((labels == true)[known].all(axis=1).mean()),
                "known_never_wrong": float(((labels == true) | ~reached)[known].all(axis=1).mean()),
            }
        )
    for name, score in _scores(folder).items():
        records.append(run | {"score": name, "auroc": auroc(score[known], score[novel])})
    return records


def _known(truth, prepared: Prepared) -> np.ndarray:
    """Cells whose finest label the reference has, and not too rarely."""
    finest = prepared.pair.levels[-1]
    counts = prepared.reference_labels()[finest].value_counts()
    enough = counts[counts >= prepared.pair.min_reference_cells].index
    ignored = truth.isin(prepared.pair.ignore_labels).any(axis=1)
    return (truth[finest].isin(enough) & (truth[finest] != "") & ~ignored).to_numpy()


def _rules(folder: Path) -> dict[str, np.ndarray]:
    found = _arrays(folder, "labels_")
    if not found:
        with np.load(folder / "predictions_full.npz") as saved:
            found = {"rejection": saved["labels"]}
    return {name: labels.astype(object) for name, labels in found.items()}


def _scores(folder: Path) -> dict[str, np.ndarray]:
    return _arrays(folder, "score_")


def _arrays(folder: Path, prefix: str) -> dict[str, np.ndarray]:
    path = folder / "tmp" / "novelty.npz"
    if not path.exists():
        return {}
    with np.load(path) as saved:
        return {name.removeprefix(prefix): saved[name] for name in saved if name.startswith(prefix)}


def tables(records: list[dict], n_digits: int = 2) -> str:
    """Markdown: one table of scores, one of rules."""
    title = {spec.name: spec.title for spec in METHODS}
    lines = ["| left out | method | score | AUROC |", "|---|---|---|---:|"]
    for row in (row for row in records if "score" in row):
        lines.append(
            f"| {_left_out(row)} | {title[row['method']]} | {row['score']} "
            f"| {row['auroc']:.{n_digits}f} |"
        )
    lines += ["", "| left out | method | rule | " + " | ".join(SHARES.values()) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(SHARES))
    for row in (row for row in records if "rule" in row):
        shares = " | ".join(f"{row[name]:.{n_digits}f}" for name in SHARES)
        lines.append(f"| {_left_out(row)} | {title[row['method']]} | {row['rule']} | {shares} |")
    return "\n".join(lines)


def _left_out(row: dict) -> str:
    return f"{row['kind']} {row['left_out']} ({row['pair']})"


def write_tables(page: Path, records: list[dict]) -> None:
    """Put the tables between the two markers of a page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables(records)}\n\n{END}{after}")


def measure(pair: Pair, left_out: LeftOut, args: argparse.Namespace) -> None:
    """Run every method without one label."""
    records, runner = Records(args.out), Runner(args.work, args.envs, args.threads)
    prepared = without(prepare(pair, args.data or args.pairs.parent, args.work), left_out)
    LabelTree.from_labels(prepared.reference_labels())  # fails early on labels with gaps
    for spec in METHODS:
        key = {"pair": left_out.pair, "left_out": left_out.label, "method": spec.name}
        key |= {"seed": args.seed}
        if spec.name not in args.methods or (records.matching(**key) and not args.force):
            continue
        logger.info("%s · %s", left_out.name, spec.name)
        try:
            folder = runner.run(spec, prepared, args.seed, {"full": prepared.query})
        except RunFailed as reason:
            logger.warning("  failed: %s", reason)
            continue
        records.replace(rows(prepared, left_out, spec, args.seed, folder), **key)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, help="JSON list of pairs")
    parser.add_argument("--data", type=Path, help="folder of the files (default: of --pairs)")
    parser.add_argument("--methods", nargs="+", default=[spec.name for spec in METHODS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "novelty.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="scratch folder")
    parser.add_argument("--envs", default=str(HERE / ".envs"), help="as in run.py")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, help="only write the tables into this page")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.page:
        write_tables(args.page, Records(args.out).rows)
        return
    for left_out in LEFT_OUT:
        (pair,) = read_pairs(args.pairs, [left_out.pair])
        measure(pair, left_out, args)


if __name__ == "__main__":
    main()
