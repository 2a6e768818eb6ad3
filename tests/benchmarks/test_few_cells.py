"""Few labelled cells: what is drawn, and what becomes of it."""

import json

import few_cells
import numpy as np
import pytest
from harness.pairs import read_pairs
from harness.prepare import prepare
from report import Report


@pytest.fixture
def prepared(own_pair, tmp_path):
    (pair,) = read_pairs(own_pair)
    return prepare(pair, own_pair.parent, tmp_path / "work")


def test_so_many_cells_of_each_type_come_from_one_batch(prepared):
    first, again, other = (few_cells.cut_reference(prepared, 5, seed) for seed in (0, 0, 1))
    assert len(set(first.batch)) == 1
    assert first.labels["cell_type"].value_counts().to_dict() == {
        "CD4": 5,
        "CD8": 5,
        "B": 5,
        "rare": 2,
    }
    assert (first.counts != again.counts).nnz == 0
    assert (first.counts != other.counts).nnz > 0
    assert set(np.unique(first.codes)) == set(range(len(first.tree.classes)))


def test_rows_are_kept_and_shown_by_size(own_pair, tmp_path, capsys):
    results = tmp_path / "results"
    call = ["--pairs", str(own_pair), "--work", str(tmp_path / "work"), "--seeds", "0", "1"]
    call += ["--out", str(results / "few_cells.json"), "--methods", "class_means"]
    few_cells.main([*call, "--sizes", "5"])
    few_cells.main([*call, "--sizes", "5", "10"])
    assert len(capsys.readouterr().out.splitlines()) == 4
    rows = json.loads((results / "few_cells.json").read_text())
    assert {(row["n_each"], row["n_reference"]) for row in rows} == {(5, 17), (10, 32)}
    assert all(row["across"] for row in rows)
    page = Report(results)._few_cells().splitlines()
    assert page[-3].startswith("| method | another study, 5 | another study, 10 |")
    assert "±" in page[-1]
