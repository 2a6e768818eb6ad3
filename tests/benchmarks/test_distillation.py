"""Students of small references: rows, resuming, and the table."""

import json

import distillation


def test_rows_are_kept_and_shown_by_student(own_pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(distillation, "PAIRS", ("mine",))
    call = ["--pairs", str(own_pair), "--work", str(tmp_path / "work"), "--only", "mine"]
    call += ["--out", str(tmp_path / "rows.json"), "--students", "logistic"]
    call += ["--methods", "random", "centroids", "all cells"]
    distillation.main([*call, "--sizes", "1"])
    distillation.main([*call, "--sizes", "1", "10"])
    assert len(capsys.readouterr().out.splitlines()) == 6
    rows = json.loads((tmp_path / "rows.json").read_text())
    n_cells = {(row["method"], row["n_each"]): row["n_cells"] for row in rows}
    assert n_cells["centroids", 1] == 3
    assert n_cells["random", 10] == 30
    assert n_cells["all cells", 1] == n_cells["all cells", 10] == 100
    assert all(row["macro_f1"] > 0.3 for row in rows)
    text = distillation.table(rows)
    assert "**Student: logistic**" in text
    assert "| method | mine, 1 | mine, 10 | mean |" in text
    assert "schdeepinsight" not in text
