"""Copy the leaf macro-F1 of ours, three peers and the best control into the README.

What stands between ``<!-- results:begin -->`` and ``<!-- results:end -->`` is replaced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from harness.registry import SPECS
from harness.summary import Summary, clear_best, finest, means, summarise
from harness.tables import figure, replace_between, table

HERE = Path(__file__).resolve().parent
#: What the README shows; everything else is on the benchmark page.
SHOWN = (
    "schdeepinsight_mapped",
    "popv",
    "scanvi",
    "celltypist",
    "logistic_regression_balanced",
    "profiles",
)


def results_table(rows: list[dict]) -> str:
    """One row per method of `SHOWN`, one column per pair, and their mean: finest macro-F1."""
    rows = [row for row in finest(rows) if row["method"] in SHOWN]
    specs = {s.name: s for s in SPECS}
    shown = [specs[name] for name in SHOWN if any(row["method"] == name for row in rows)]
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    columns = {pair: _column(rows, pair, [s.name for s in shown]) for pair in pairs}
    columns |= means(rows, [s.name for s in shown])
    best = {title: clear_best(column) for title, column in columns.items()}
    lines = [
        [s.title, *(figure(c[s.name], bold=best[t] == s.name) for t, c in columns.items())]
        for s in shown
    ]
    return table(["method", *columns], lines)


def _column(rows: list[dict], pair: str, names: list[str]) -> dict[str, Summary | None]:
    here = [row for row in rows if row["pair"] == pair]
    return {n: summarise([r for r in here if r["method"] == n], "macro_f1") for n in names}


def main(argv: list[str] | None = None) -> None:
    """Rewrite the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "accuracy.json")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md")
    args = parser.parse_args(argv)
    rows = json.loads(args.results.read_text())
    text = replace_between(args.readme.read_text(), "results", results_table(rows))
    args.readme.write_text(text)


if __name__ == "__main__":
    main()
