"""Write ``docs/benchmarks_companions.md`` from the result files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
from harness.summary import summarise
from harness.tables import figure, table

from clustering import METHODS
from clustering.datasets import NINE, ROWS

INTRODUCTION = """\
# Benchmarks of the companions

This page is written by `make bench-companions` from `benchmarks/results/*.json`; do not edit it.

## Clusters without labels

Every method gets raw counts and the number of types, and no label. Rules, epochs and resolutions
are the same on every row and were fixed before the labels were read. Figures are means over seeds ±
half the distance between the largest and the smallest; a figure without ± is a single run. ARI is
the adjusted Rand index, NMI the normalised mutual information, CPU the processor time of all rows.

- **k-means** and **spectral** know the true number of types; **Leiden** (resolution 1) does not.
  All three read 50 principal components of log-normalised values of 2,000 genes.
- **sce2tm** has these components as second view, **sce2tm_alone** none, and **sce2tm_permuted**
  those of other cells. **scagc** learns its graph; **scagc_static** keeps the first one,
  **scagc_random** a random one, and **scagc_one_phase** does not train the clusters.
- A number behind **dp_pca** and **dpdcan** is epsilon. **dp_pca** projects around 0, **centred**
  around a private mean; **no_projection** and **random_projection** release nothing about cells.
"""

#: Further sections: title, result file, module and function that make the text of its rows.
SECTIONS = (
    ("Missing genes and gene panels", "corrected_gram", "corrected_gram:table"),
    ("Marker lists without a reference", "markers", "markers:table"),
    ("Small references", "distillation", "distillation:table"),
    ("Gene tokens and pretraining", "gene_tokens", "gene_tokens:table"),
)
#: Figures of topic models, beside the clusters.
TOPICS = {
    "ari_leiden": "Topic scores by Leiden at resolution 1 instead (ARI)",
    "ari_largest_topic": "The largest topic of a cell as its cluster (ARI)",
    "topic_diversity": "Topic diversity (top 10 genes)",
    "topic_coherence": "Topic coherence (top 10 genes, cells as documents)",
}


def page(results: Path) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    results
        Folder of the result files; what is not measured yet is left out.
    """
    rows = [row for name in METHODS for row in _read(results / "companions" / f"{name}.json")]
    parts = [INTRODUCTION]
    parts.append("### Adjusted Rand index\n\n" + _table(rows, "ari", NINE))
    parts.append("### Normalised mutual information\n\n" + _table(rows, "nmi", NINE))
    hard = [row for row in ROWS if row not in NINE]
    parts.append("### Two harder rows (ARI)\n\n" + _table(rows, "ari", hard))
    topical = [row for row in rows if "topic_diversity" in row]
    for key, title in TOPICS.items():
        if any(key in row for row in topical):
            parts.append(f"### {title}\n\n" + _table([r for r in topical if key in r], key, NINE))
    for title, name, address in SECTIONS:
        if found := _read(results / f"{name}.json"):
            module, function = address.split(":")
            make: Callable[[list[dict]], str] = getattr(import_module(module), function)
            parts.append(f"## {title}\n\n{make(found)}")
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _table(rows: list[dict], key: str, names: Iterable[str]) -> str:
    """One line per method; its mean stands where every row was measured."""
    lines, names = [], list(names)
    for name in METHODS:
        own = [row for row in rows if row["method"] == name]
        found = [summarise([r for r in own if r["row"] == row], key) for row in names]
        if any(found):
            mean = f"{np.mean([each.mean for each in found]):.3f}" if all(found) else "–"
            times = [[r["cpu_s"] for r in own if r["row"] == row] for row in names]
            used = sum(float(np.mean(each)) for each in times if each)
            lines.append([name, *map(figure, found), mean, f"{used:.0f}"])
    return table(["method", *names, "mean", "CPU s"], lines)


def _read(path: Path) -> list[dict]:
    return json.loads(path.read_text()) if path.exists() else []
