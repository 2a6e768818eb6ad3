"""Measure methods on reference → query pairs; see ``benchmarks/README.md``.

Every (pair, method, seed) runs in a process of its own on the same prepared files. Rows that are
there already are kept, so an interrupted benchmark is resumed by the same command.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.execute import RunFailed, Runner
from harness.pairs import read_pairs
from harness.prepare import Prepared, prepare
from harness.records import Records
from harness.registry import GROUPS, Spec, resolve
from harness.results import failure, rows_of, run_facts

HERE = Path(__file__).resolve().parent
logger = logging.getLogger("benchmarks")


@dataclass
class Benchmark:
    """Record files and a runner.

    Parameters
    ----------
    accuracy
        Rows of the whole query.
    missing
        Rows of the query without some genes.
    runs
        One record a (pair, method, seed): versions, machine, what was not scored, or why it failed.
    runner
        Starts the workers.
    shares
        Shares of genes to remove.
    force
        Measure again what is there.
    """

    accuracy: Records
    missing: Records
    runs: Records
    runner: Runner
    shares: tuple[float, ...] = ()
    force: bool = False

    def wanted(self, prepared: Prepared, spec: Spec, seed: int) -> dict[str, float]:
        """Name the queries that still lack rows: tag → share of missing genes."""
        run = {"pair": prepared.pair.name, "method": spec.name, "seed": seed}
        shares = {"full": 0.0, **{f"missing_{share:.2f}": share for share in self.shares}}
        done = {0.0: self.accuracy.matching(**run)} | {
            share: self.missing.matching(missing_genes=share, **run) for share in self.shares
        }
        return {tag: share for tag, share in shares.items() if self.force or not done[share]}

    def measure(self, prepared: Prepared, spec: Spec, seed: int) -> None:
        """Run, score and record one (pair, method, seed)."""
        run = {"pair": prepared.pair.name, "method": spec.name, "seed": seed}
        wanted = self.wanted(prepared, spec, seed)
        if not wanted:
            return
        logger.info("%s · %s · seed %d · %s", *run.values(), ", ".join(wanted))
        queries = {
            tag: prepared.reduced_query(share, seed) if share else prepared.query
            for tag, share in wanted.items()
        }
        try:
            folder = self.runner.run(spec, prepared, seed, queries)
        except RunFailed as reason:
            logger.warning("  failed: %s", reason)
            self.runs.replace([failure(run, spec, str(reason))], **run)
            return
        for tag, share in wanted.items():
            rows = rows_of(folder, tag, prepared, spec, run, share)
            if share:
                self.missing.replace(rows, missing_genes=share, **run)
            else:
                self.accuracy.replace(rows, **run)
                logger.info("  macro-F1 %s", {r["level"]: round(r["macro_f1"], 3) for r in rows})
        self.runs.replace([run_facts(folder, run, spec)], **run)


def parser() -> argparse.ArgumentParser:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="JSON list of pairs")
    parser.add_argument("--data", type=Path, help="folder of the files (default: of --pairs)")
    parser.add_argument("--only", nargs="+", metavar="PAIR", help="names of pairs (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", default=["all"], help=f"names, or groups: {', '.join(GROUPS)}"
    )
    parser.add_argument(
        "--missing", type=float, nargs="*", default=[], metavar="SHARE", help="genes to remove"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "accuracy.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="scratch folder")
    parser.add_argument(
        "--envs",
        default=str(HERE / ".envs"),
        help="folder of the peers' environments, or a pattern such as /opt/bench-{name}",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads a method may use")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds for one run")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    specs = resolve(args.methods)
    folder = args.out.parent
    benchmark = Benchmark(
        accuracy=Records(args.out),
        missing=Records(folder / "missing_genes.json"),
        runs=Records(folder / "runs.json"),
        runner=Runner(args.work, args.envs, args.threads, args.timeout),
        shares=tuple(args.missing),
        force=args.force,
    )
    for pair in read_pairs(args.pairs, args.only):
        prepared = prepare(pair, args.data or args.pairs.parent, args.work)
        for spec in specs:
            for seed in args.seeds:
                benchmark.measure(prepared, spec, seed)


if __name__ == "__main__":
    # raised as an exception, so that the running worker is ended too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    main()
