"""From the folder of a finished run to records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .prepare import Prepared
from .records import accuracy_row
from .registry import Spec
from .scoring import score


def rows_of(
    folder: Path, tag: str, prepared: Prepared, spec: Spec, run: dict, share: float
) -> list[dict]:
    """Score one annotated query: one row a level.

    Parameters
    ----------
    folder
        What `Runner.run` returned.
    tag
        Name of the query in that run.
    run
        ``pair``, ``method`` and ``seed``.
    share
        Share of genes that the query lacked, 0 for the whole query.
    """
    result = json.loads((folder / "result.json").read_text())
    scores = _scores(folder / f"predictions_{tag}.npz", prepared)
    measured = {
        **run,
        "kind": spec.kind,
        "train_s": round(result["train_s"], 5),
        "annotate_s": round(result["queries"][tag]["annotate_s"], 5),
        "peak_rss_mb": round(result["queries"][tag]["peak_rss_mb"], 1),
    }
    extra = {"missing_genes": share} if share else {}
    return [
        accuracy_row(rounded(s), run=measured, extra={**extra, **result["extra"]}) for s in scores
    ]


def run_facts(folder: Path, run: dict, spec: Spec) -> dict:
    """Record of a run that ended well."""
    result = json.loads((folder / "result.json").read_text())
    return {
        **run,
        "kind": spec.kind,
        "status": "ok",
        "versions": result["versions"],
        "host": result["host"],
        "loaded_rss_mb": round(result["loaded_rss_mb"], 1),
    }


def failure(run: dict, spec: Spec, reason: str) -> dict:
    """Record of a run that did not."""
    return {**run, "kind": spec.kind, "status": "failed", "reason": reason}


def _scores(predictions: Path, prepared: Prepared) -> list[dict]:
    with np.load(predictions) as saved:
        labels = saved["labels"].astype(object)
        probabilities = saved.get("probabilities")
    pair = prepared.pair
    return score(
        prepared.truth(),
        prepared.reference_labels(),
        labels,
        probabilities,
        ignore=pair.ignore_labels,
        minimum=pair.min_reference_cells,
    )


def rounded(record: dict) -> dict:
    """Floats of a record to five digits."""
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in record.items()}
