"""Join the result folders of several drivers, such as one for our model and one for peers.

A (pair, method, seed) that stands in several folders is taken whole from the last one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from harness.records import Records

HERE = Path(__file__).resolve().parent
FILES = ("accuracy.json", "missing_genes.json", "runs.json")


def merge(parts: Iterable[list[dict]]) -> list[dict]:
    """Join lists of records; later lists replace what earlier ones say of the same run."""
    by_run: dict[tuple, list[dict]] = {}
    for rows in parts:
        of_part: dict[tuple, list[dict]] = {}
        for row in rows:
            of_part.setdefault((row["pair"], row["method"], row["seed"]), []).append(row)
        by_run |= of_part
    return [row for rows in by_run.values() for row in rows]


def main(argv: list[str] | None = None) -> None:
    """Write the joined files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    for name in FILES:
        joined = Records(args.out / name)
        joined.rows = merge(Records(folder / name).rows for folder in args.folders)
        joined.save()


if __name__ == "__main__":
    main()
