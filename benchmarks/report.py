"""Write ``docs/benchmarks.md`` from the result files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import speed
from harness.components import COMPONENTS
from harness.learned import LABELS
from harness.registry import SPECS
from harness.summary import Summary, clear_best, finest, less, mean_over, means, summarise
from harness.tables import figure, table

HERE = Path(__file__).resolve().parent
DEFAULT = "schdeepinsight"

INTRODUCTION = """\
# Benchmarks

This page is written by `benchmarks/report.py` from `benchmarks/results/*.json`; do not edit it.

Every method is trained on the same labelled reference and annotates the same query, from other
donors, another study or another condition. Query labels are used for scores only. Each run is a
separate process, in the environment that the method needs.

- **Macro-F1** is the mean F1 over the classes of the query. Classes that the reference lacks, or of
  which it has fewer cells than the pair requires, are not scored; they are listed below.
- **Hierarchical F1** compares the sets of labels on the paths down to the level (micro-average).
- **ECE** is the expected calibration error over 15 bins with equal numbers of cells, of the
  probability of the label at that level (0 is perfect). Methods without probabilities have none.
- Figures are means over seeds ± half the range. A figure without ± is a single run; – means not
  measured. The best figure is **bold** only if its lead exceeds the half ranges of both.
- Every method is trained on the finest labels; coarser labels follow from the tree. Controls use
  the same list of up to 4,096 genes, selected on the reference; peers select their own genes as
  their authors recommend.
- Training time includes all steps up to a model that can annotate, except loading the data. Memory
  is the peak of the process, including libraries and data. Methods that train on the query (scANVI,
  scPoli, Harmony, popV) do so as part of the annotation. The machine was busy to varying degrees,
  so compare ratios; the table of speed and scale below was measured on an otherwise idle machine.
- Our rows, and those of the profiles alone, are of the present version and of three seeds, trained
  on a busy machine, which their times show; for each seed, they share one training. Rows of single
  steps are of an earlier version.
- **Profiles of the types, no network**: the discriminant and the rank correlations that the network
  is combined with ({doc}`user_guide/model`), on their own. They are nearly as accurate as the
  whole model, but their probabilities are not reliable.
- Foreign tissue, noise, empty droplets, doublets and types that the reference lacks are reported in
  {doc}`benchmarks_trust`.
"""

ABLATION = """\
## Effect of each step on the query

The same trained model (per pair and seed) annotates the query with and without each step, at the
finest level. Steps get the batches of the query, but no labels. The defaults were chosen on other
pairs; after these figures were seen, one was changed, based on the other pairs (see the user
guide).
"""

CHOICES = """\
## Effect of each design choice

The default model with one change: difference in macro-F1 at the finest level to the default with
the same seed. Positive means that the change is better. All rows were measured together, with an
earlier version of the training code and without the combination with profiles. The last row is half
the range of the default over seeds; smaller differences are not meaningful.
"""

HEADROOM = """\
## Headroom

Here, methods are trained on labels of the query itself: its scored cells are split into five parts,
and each part is annotated by a method trained on the other four. Such labels do not exist in
practice, so the difference to the figures above indicates how much a better adaptation could gain.
Where the figures above are higher, the reference is more informative than the query's own labels.
This is not an upper bound: another method may learn more from the same labels.
"""


FEW_CELLS = """\
## Few labelled cells

References with a limited number of cells per type, all from the donor or study with the most cells;
each seed draws other cells. Macro-F1 at the finest level, mean over the pairs with a query of the
same study, and over those with a query of another study.
"""


SPEED = """\
CPU time with one thread, after imports and loading of the model (except for a cold start), as the
median of alternating runs. Memory is the peak of the process, and the part added by the job. See
{doc}`performance`.
"""


class Report:
    """Sections of the page.

    Parameters
    ----------
    results
        Folder of the result files.
    jobs
        What each pair is about, by name.
    """

    def __init__(self, results: Path, jobs: dict[str, str] | None = None):
        self.accuracy = _read(results / "accuracy.json")
        self.choices = _read(results / "choices.json")
        missing = _read(results / "missing_genes.json")
        self.missing = [row for row in missing if row["missing_genes"]]
        # Falls are measured from rows of the same code.
        self.together = [row for row in missing if not row["missing_genes"]]
        done = {(row["pair"], row["method"]) for row in self.together}
        rest = [row for row in self.accuracy if (row["pair"], row["method"]) not in done]
        self.whole = self.together + rest
        self.runs = _read(results / "runs.json")
        self.speed = _read(results / "speed.json")
        self.components = _read(results / "ablation.json")
        self.headroom = _read(results / "headroom.json")
        self.few_cells = _read(results / "few_cells.json")
        self.jobs = jobs or {}
        self.specs = [s for s in SPECS if any(r["method"] == s.name for r in self.accuracy)]
        self.pairs = list(dict.fromkeys(row["pair"] for row in self.accuracy))

    def text(self) -> str:
        """Return the whole page."""
        sections = [
            INTRODUCTION,
            self._overview(),
            self._choices(),
            self._headroom(),
            self._few_cells(),
            *(self._pair(pair) for pair in self.pairs),
            self._robustness(),
            self._ablation(),
            self._speed(),
            self._failures(),
            self._conditions(),
        ]
        return "\n\n".join(section.strip() for section in sections if section) + "\n"

    def levels(self, pair: str) -> list[str]:
        """Levels of a pair, coarse to fine."""
        return list(dict.fromkeys(row["level"] for row in self.accuracy if row["pair"] == pair))

    def rows(self, records: list[dict], **values) -> list[dict]:
        """Pick records with the given values."""
        return [r for r in records if all(r.get(k) == v for k, v in values.items())]

    def _overview(self) -> str:
        """Leaf macro-F1 of every method on every pair."""
        columns = {
            pair: self._column(self.accuracy, "macro_f1", pair=pair, level=self.levels(pair)[-1])
            for pair in self.pairs
        }
        columns |= means(self.accuracy, [spec.name for spec in self.specs])
        return "## Finest level, macro-F1\n\n" + self._by_method(columns)

    def _choices(self) -> str:
        """Leaf macro-F1 of every variant of our model against the default, seed by seed."""
        measured = finest(self.choices)
        default = self.rows(measured, method=DEFAULT)
        apart = less(measured, default, "macro_f1", ("pair", "seed"))
        pairs = list(dict.fromkeys(row["pair"] for row in measured))
        lines = []
        for spec in SPECS:
            if rows := self.rows(apart, method=spec.name) if spec.name != DEFAULT else []:
                found = [summarise(self.rows(rows, pair=p), "macro_f1") for p in pairs]
                mean = mean_over(rows, "macro_f1", pairs)
                lines.append([spec.title, *(figure(s, signed=True) for s in [*found, mean])])
        if not lines:
            return ""
        own = [summarise(self.rows(default, pair=p), "macro_f1") for p in pairs]
        spread = [*own, mean_over(default, "macro_f1", pairs)]
        lines.append(
            ["spread of the default", *("–" if s is None else f"{s.half:.3f}" for s in spread)]
        )
        return CHOICES + "\n" + table(["changed", *pairs, "mean"], lines)

    def _headroom(self) -> str:
        """Leaf macro-F1 of methods that learn from labels of the query."""
        measured = finest(self.headroom)
        lines = []
        for spec in SPECS:
            for labels, title in LABELS.items():
                rows = self.rows(measured, method=spec.name, labels=labels)
                found = [summarise(self.rows(rows, pair=p), "macro_f1") for p in self.pairs]
                if any(found):
                    mean = mean_over(rows, "macro_f1", self.pairs)
                    lines.append([spec.title, title, *map(figure, [*found, mean])])
        if not lines:
            return ""
        return HEADROOM + "\n" + table(["method", "learns from", *self.pairs, "mean"], lines)

    def _few_cells(self) -> str:
        """Leaf macro-F1 by the number of reference cells per type."""
        measured = finest(self.few_cells)
        columns = {}
        for across, title in {False: "same study", True: "another study"}.items():
            own = self.rows(measured, across=across)
            for n_each in sorted({row["n_each"] for row in own}):
                rows = self.rows(own, n_each=n_each)
                pairs = list(dict.fromkeys(row["pair"] for row in rows))
                columns[f"{title}, {n_each}"] = {
                    spec.name: mean_over(self.rows(rows, method=spec.name), "macro_f1", pairs)
                    for spec in SPECS
                }
        lines = [
            [spec.title, *(figure(column[spec.name]) for column in columns.values())]
            for spec in SPECS
            if any(column[spec.name] for column in columns.values())
        ]
        return f"{FEW_CELLS}\n{table(['method', *columns], lines)}" if lines else ""

    def _pair(self, pair: str) -> str:
        parts = [f"## {pair}", self.jobs.get(pair, "").capitalize()]
        for level in self.levels(pair):
            rows = self.rows(self.accuracy, pair=pair, level=level)
            parts.append(f"### {pair}: {level}")
            parts.append(self._scored(rows))
            columns = {
                title: self._column(rows, key)
                for title, key in {
                    "accuracy": "accuracy",
                    "macro-F1": "macro_f1",
                    "hierarchical F1": "h_f1",
                    "ECE": "ece",
                    "novelty AUROC": "novelty_auroc",
                }.items()
            }
            parts.append(self._by_method(columns, lower={"ECE"}))
        parts.append(f"### {pair}: time and memory")
        rows = self.rows(self.accuracy, pair=pair, level=self.levels(pair)[-1])
        columns = {
            "train, s": self._column(rows, "train_s"),
            "annotate, s": self._column(rows, "annotate_s"),
            "peak memory, MB": self._column(rows, "peak_rss_mb"),
        }
        parts.append(self._by_method(columns, digits=1, mark=False))
        return "\n\n".join(part for part in parts if part)

    def _scored(self, rows: list[dict]) -> str:
        """Say how many cells count and which classes do not."""
        sentence = f"{rows[0]['n_cells']:,} cells are scored."
        left_out = rows[0].get("not_scored") or {}
        if left_out:
            named = ", ".join(f"{name} ({n})" for name, n in left_out.items())
            sentence += f" Not scored, because the reference has too few or none of them: {named}."
        return sentence

    def _robustness(self) -> str:
        """Leaf macro-F1 as genes are removed, and the drop at one half."""
        if not self.missing:
            return ""
        parts = [
            "## Missing genes",
            "The query without a random share of the reference's genes, which are the same for all "
            "methods; macro-F1 at the finest level, with a new draw of genes per seed.",
        ]
        if self.together:
            parts.append(
                "Our rows, including those with all genes, were measured with an earlier version "
                "of the training code and without the combination with profiles."
            )
        shares = sorted({row["missing_genes"] for row in self.missing})
        for pair in self.pairs:
            level = self.levels(pair)[-1]
            columns = {"all genes": self._column(self.whole, "macro_f1", pair=pair, level=level)}
            for share in shares:
                columns[f"{share:.0%} removed"] = self._column(
                    self.missing, "macro_f1", pair=pair, level=level, missing_genes=share
                )
            has_rows = {r["method"] for r in self.rows(self.missing, pair=pair)}
            columns = {k: {m: s for m, s in c.items() if m in has_rows} for k, c in columns.items()}
            if has_rows:
                parts += [f"### {pair}: missing genes", self._by_method(columns)]
        return "\n\n".join([*parts, self._drops()])

    def _drops(self) -> str:
        """Say how far leaf macro-F1 falls when half of the genes are gone, seed by seed."""
        columns = {}
        for pair in self.pairs:
            place = {"pair": pair, "level": self.levels(pair)[-1]}
            whole = self.rows(self.whole, **place)
            half = self.rows(self.missing, missing_genes=0.5, **place)
            drops = less(whole, half, "macro_f1", ("method", "seed"))
            columns[pair] = self._column(drops, "macro_f1")
        title = "### Decrease in macro-F1 with half of the genes removed"
        return f"{title}\n\n{self._by_method(columns, mark=False)}"

    def _ablation(self) -> str:
        """Leaf macro-F1 and accuracy of every component."""
        if not self.components:
            return ""
        parts = [ABLATION]
        for share in sorted({row["missing_genes"] for row in self.components}):
            genes = f"{share:.0%} of the genes removed" if share else "all genes"
            for key, title in {"macro_f1": "macro-F1", "accuracy": "accuracy"}.items():
                rows = self.rows(self.components, missing_genes=share)
                parts += [f"### Components, {genes}: {title}", self._by_component(rows, key)]
        return "\n\n".join(parts)

    def _by_component(self, rows: list[dict], key: str) -> str:
        """One row per component, one column per pair, and the mean if all pairs were measured."""
        lines = []
        for component in COMPONENTS:
            found = [
                summarise(
                    self.rows(rows, method=component.name, pair=pair, level=self.levels(pair)[-1]),
                    key,
                )
                for pair in self.pairs
            ]
            if not any(found):
                continue
            complete = all(found)
            mean = f"{sum(s.mean for s in found) / len(found):.3f}" if complete else "–"
            cells = [figure(summary, 3, bold=False) for summary in found]
            lines.append([component.title, *cells, mean])
        return table(["component", *self.pairs, "mean"], lines)

    def _speed(self) -> str:
        if not self.speed:
            return ""
        return f"## Speed and scale\n\n{SPEED}\n{speed.tables(self.speed)}"

    def _failures(self) -> str:
        """Peers that could not be installed, and runs that failed, with the reason."""
        failed = self.rows(self.runs, status="failed")
        head = f"## What could not be run\n\n{self._not_measured()}"
        if not failed:
            return f"{head}No run that was started failed."
        seeds: dict[tuple[str, str, str], list[int]] = {}
        for run in failed:
            seeds.setdefault((run["method"], run["pair"], run["reason"]), []).append(run["seed"])
        lines = [
            [method, pair, ", ".join(map(str, sorted(n))), reason.replace("|", "\\|")]
            for (method, pair, reason), n in sorted(seeds.items())
        ]
        return head + table(["method", "pair", "seeds", "reason"], lines)

    def _not_measured(self) -> str:
        """Methods of the benchmark that these records lack altogether."""
        measured = {run["method"] for run in self.runs}
        lacking = [spec.title for spec in SPECS if spec.name not in measured]
        if not lacking:
            return ""
        return f"Not measured in these records: {', '.join(lacking)}.\n\n"

    def _conditions(self) -> str:
        """Versions of every method and the machines."""
        done = self.rows(self.runs, status="ok")
        found = {
            spec.title: sorted({_listed(r["versions"]) for r in done if r["method"] == spec.name})
            for spec in self.specs
        }
        lines = [[title, "; ".join(versions)] for title, versions in found.items() if versions]
        hosts = sorted({_machine(run["host"]) for run in done})
        machines = "\n".join(f"- {host}" for host in hosts)
        versions = table(["method", "versions"], lines) if lines else ""
        return f"## Versions and machines\n\n{versions}\n\n{machines}"

    def _column(self, records: list[dict], key: str, **values) -> dict[str, Summary | None]:
        rows = self.rows(records, **values)
        return {s.name: summarise(self.rows(rows, method=s.name), key) for s in self.specs}

    def _by_method(
        self,
        columns: dict[str, dict[str, Summary | None]],
        *,
        lower: set[str] = frozenset(),
        digits: int = 3,
        mark: bool = True,
    ) -> str:
        """One row per method; columns without any figure are left out."""
        columns = {k: c for k, c in columns.items() if any(s is not None for s in c.values())}
        best = {
            title: clear_best(column, lower_is_better=title in lower) if mark else None
            for title, column in columns.items()
        }
        lines = []
        for spec in self.specs:
            found = {title: column.get(spec.name) for title, column in columns.items()}
            if any(found.values()):
                cells = [
                    figure(summary, digits, bold=best[title] == spec.name)
                    for title, summary in found.items()
                ]
                lines.append([spec.title, spec.kind, *cells])
        return table(["method", "kind", *columns], lines)


def _read(path: Path) -> list[dict]:
    return json.loads(path.read_text()) if path.exists() else []


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _machine(host: dict) -> str:
    gpu = f"{host['gpu']}, " if "gpu" in host else ""
    return (
        f"{gpu}{host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB, {host['system']}, "
        f"Python {host['python']}, {host['threads']} thread(s) per method"
    )


def main(argv: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--pairs", type=Path, help="pairs file, for what each pair is about")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    args = parser.parse_args(argv)
    entries = json.loads(args.pairs.read_text()) if args.pairs else []
    jobs = {entry["name"]: entry.get("job", "") for entry in entries}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(Report(args.results, jobs).text())


if __name__ == "__main__":
    main()
