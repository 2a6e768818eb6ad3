"""The driver end to end on a pair of one's own, its records, and how it resumes."""

import json

import numpy as np
import pytest
import report
import run
from harness.execute import RunFailed
from harness.pairs import read_pairs
from harness.prepare import prepare
from harness.records import ROW_KEYS, Records, accuracy_row
from harness.registry import SPECS, resolve


def measure(own_pair, folder, *more):
    arguments = ["--pairs", own_pair, "--seeds", "0", "--work", folder / "work"]
    arguments += [
        "--out",
        folder / "results" / "accuracy.json",
        "--envs",
        folder / "no_envs",
        *more,
    ]
    run.main([str(argument) for argument in arguments])
    return {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}


@pytest.fixture
def results(own_pair, tmp_path):
    methods = ["majority", "logistic_regression"]
    return measure(own_pair, tmp_path, "--methods", *methods, "--missing", "0.5")


def test_two_methods_end_to_end(results, own_pair, tmp_path):
    rows = {(row["method"], row["level"]): row for row in results["accuracy"]}
    assert list(rows) == [
        ("majority", "lineage"),
        ("majority", "cell_type"),
        ("logistic_regression", "lineage"),
        ("logistic_regression", "cell_type"),
    ]
    # 50 cells of CD4, CD8 and B count at the fine level, the 4 rare ones at the coarse level too
    assert [rows["majority", level]["n_cells"] for level in ("lineage", "cell_type")] == [54, 50]
    assert rows["majority", "cell_type"]["accuracy"] == pytest.approx(20 / 50)
    assert rows["majority", "cell_type"]["macro_f1"] == pytest.approx(2 * 20 / 70 / 3, abs=1e-5)
    assert rows["majority", "lineage"]["accuracy"] == pytest.approx(40 / 54, abs=1e-5)
    assert rows["majority", "cell_type"]["not_scored"] == {"new": 5, "rare": 4}
    assert rows["logistic_regression", "cell_type"]["macro_f1"] > 0.95
    assert rows["logistic_regression", "cell_type"]["ece"] < 0.2
    for row in rows.values():
        assert tuple(row)[: len(ROW_KEYS)] == ROW_KEYS
        assert (row["pair"], row["kind"], row["seed"]) == ("mine", "control", 0)
        assert row["train_s"] >= 0
        assert row["annotate_s"] > 0
        assert 50 < row["peak_rss_mb"] < 5000

    reduced = [r for r in results["missing_genes"] if r["level"] == "cell_type"]
    assert [(r["method"], r["missing_genes"]) for r in reduced] == [
        ("majority", 0.5),
        ("logistic_regression", 0.5),
    ]
    assert reduced[0]["accuracy"] == rows["majority", "cell_type"]["accuracy"]
    assert reduced[1]["accuracy"] < rows["logistic_regression", "cell_type"]["accuracy"]

    assert [r["status"] for r in results["runs"]] == ["ok", "ok"]
    assert results["runs"][1]["versions"]["scikit-learn"]
    assert results["runs"][0]["host"]["threads"] == 1

    # resuming runs nothing that is there; a further method alone is tried
    before = (tmp_path / "work/runs/mine/majority/0/result.json").stat().st_mtime_ns
    again = measure(own_pair, tmp_path, "--methods", "majority", "celltypist", "--missing", "0.5")
    assert (tmp_path / "work/runs/mine/majority/0/result.json").stat().st_mtime_ns == before
    assert again["accuracy"] == results["accuracy"]

    # the peer without an environment is reported, not dropped
    (failed,) = [r for r in again["runs"] if r["method"] == "celltypist"]
    assert failed["status"] == "failed"
    assert "environments.py" in failed["reason"]
    page = report.Report(tmp_path / "results").text()
    assert "| celltypist | mine | 0 | not installed" in page
    assert (
        "Not scored, because the reference has too few or none of them: new (5), rare (4)." in page
    )


class Rehearsal:
    """In the place of a runner: notes what it is asked for, and answers with the truth."""

    def __init__(self):
        self.asked = []

    def run(self, spec, prepared, seed, queries):
        self.asked.append((spec.name, seed, sorted(queries)))
        if spec.name == "popv":
            raise RunFailed("no such luck")
        folder = prepared.folder.parent / f"{spec.name}_{seed}_{len(self.asked)}"
        folder.mkdir(exist_ok=True)
        measured = {"annotate_s": 2.0, "peak_rss_mb": 3.0}
        result = {"train_s": 1.0, "loaded_rss_mb": 1.0, "extra": {}, "versions": {}, "host": {}}
        result["queries"] = dict.fromkeys(queries, measured)
        (folder / "result.json").write_text(json.dumps(result))
        for tag in queries:
            np.savez(folder / f"predictions_{tag}.npz", labels=prepared.truth().to_numpy(str))
        return folder


@pytest.fixture
def rehearse(own_pair, tmp_path):
    prepared = prepare(*read_pairs(own_pair), own_pair.parent, tmp_path / "work")

    def go(method, seed, **options):
        records = [Records(tmp_path / f"{name}.json") for name in ("accuracy", "missing", "runs")]
        benchmark = run.Benchmark(*records, runner=Rehearsal(), **options)
        benchmark.measure(prepared, *resolve([method]), seed)
        return benchmark

    return go


def test_only_what_lacks_is_measured(rehearse):
    assert rehearse("mlp", 0).runner.asked == [("mlp", 0, ["full"])]
    assert rehearse("mlp", 0).runner.asked == []
    assert rehearse("mlp", 1).runner.asked == [("mlp", 1, ["full"])]
    added = rehearse("mlp", 0, shares=(0.25, 0.5))
    assert added.runner.asked == [("mlp", 0, ["missing_0.25", "missing_0.50"])]
    assert rehearse("mlp", 0, shares=(0.25, 0.5)).runner.asked == []
    assert [row["macro_f1"] for row in added.accuracy.rows] == [1.0] * 4
    assert [row["missing_genes"] for row in added.missing.rows] == [0.25, 0.25, 0.5, 0.5]


def test_force_measures_again_and_leaves_no_double(rehearse):
    first = rehearse("mlp", 0)
    again = rehearse("mlp", 0, force=True)
    assert again.runner.asked == [("mlp", 0, ["full"])]
    assert again.accuracy.rows == first.accuracy.rows


def test_a_failure_is_noted_and_tried_again_next_time(rehearse):
    rehearse("popv", 0)
    again = rehearse("popv", 0)
    assert again.runner.asked == [("popv", 0, ["full"])]
    assert [(r["status"], r["reason"]) for r in again.runs.rows] == [("failed", "no such luck")]
    assert again.accuracy.rows == []


def test_a_row_has_the_agreed_keys_first_and_extras_last():
    scores = {
        "level": "l",
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "h_f1": 1.0,
        "ece": None,
        "n_cells": 3,
    }
    known = {"pair": "p", "method": "m", "seed": 0, "kind": "peer"}
    times = {"train_s": 1.0, "annotate_s": 1.0, "peak_rss_mb": 1.0}
    row = accuracy_row(scores, run={**known, **times}, extra={"best_epoch": 7})
    assert tuple(row) == (*ROW_KEYS, "n_cells", "best_epoch")
    assert row["ece"] is None


def test_records_replace_only_what_matches(tmp_path):
    records = Records(tmp_path / "rows.json")
    records.replace([{"pair": "a", "seed": 0}, {"pair": "a", "seed": 1}], pair="a")
    records.replace([{"pair": "a", "seed": 0, "accuracy": 1}], pair="a", seed=0)
    expected = [{"pair": "a", "seed": 1}, {"pair": "a", "seed": 0, "accuracy": 1}]
    assert Records(tmp_path / "rows.json").rows == expected
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_the_registry_has_every_method_once_and_in_a_known_kind():
    names = [spec.name for spec in SPECS]
    assert len(set(names)) == len(names)
    assert {spec.kind for spec in SPECS} == {"ours", "control", "peer"}
    assert resolve(["all"]) == list(SPECS)
    assert [spec.name for spec in resolve(["popv", "majority"])] == ["majority", "popv"]


def test_a_method_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="nonesuch"):
        resolve(["nonesuch"])
