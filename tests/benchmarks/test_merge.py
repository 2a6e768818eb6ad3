"""Results of several drivers in one folder."""

import merge
from harness.records import Records


def row(method, level, value, seed=0):
    return {"pair": "p", "method": method, "seed": seed, "level": level, "accuracy": value}


def test_a_run_is_taken_whole_from_the_last_folder_that_has_it(tmp_path):
    old, new = Records(tmp_path / "old/accuracy.json"), Records(tmp_path / "new/accuracy.json")
    old.rows = [
        row("a", "l", 0.1),
        row("a", "c", 0.2),
        row("b", "l", 0.3),
        row("a", "l", 0.4, seed=1),
    ]
    new.rows = [row("a", "l", 0.9), row("c", "l", 0.5)]
    old.save()
    new.save()
    merge.main([str(tmp_path / "old"), str(tmp_path / "new"), "--out", str(tmp_path / "out")])
    assert Records(tmp_path / "out/accuracy.json").rows == [
        row("a", "l", 0.9),
        row("b", "l", 0.3),
        row("a", "l", 0.4, seed=1),
        row("c", "l", 0.5),
    ]
    assert Records(tmp_path / "out/runs.json").rows == []
