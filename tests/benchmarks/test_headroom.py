"""What could be won: every cell is labelled by a method that has not seen its label."""

import json

import headroom
import numpy as np
import pandas as pd
import pytest
from harness.pairs import read_pairs
from harness.prepare import prepare
from harness.registry import resolve
from report import Report


@pytest.fixture
def prepared(own_pair, tmp_path):
    (pair,) = read_pairs(own_pair)
    return prepare(pair, own_pair.parent, tmp_path / "work")


def test_only_scored_cells_are_asked_and_each_of_them_once(prepared):
    query = headroom.LabelledQuery(prepared, seed=0)
    counts = query.labels["cell_type"].value_counts().to_dict()
    assert counts == {"CD4": 20, "CD8": 20, "B": 10}  # neither rare, nor new, nor unknown
    asked = np.concatenate([part for _, part in query.parts])
    assert sorted(asked) == list(range(50))
    assert not any(set(learned) & set(part) for learned, part in query.parts)


def test_the_reference_is_put_before_the_query_in_shared_genes(prepared):
    query = headroom.LabelledQuery(prepared, seed=0)
    rows = np.array([3, 1])
    joined = query.learn_from(rows, reference=True)
    # the query has the genes the other way round
    both = query.reference.genes.tolist()
    assert joined.genes.tolist() == both != query.cells.genes.tolist()
    np.testing.assert_array_equal(
        joined.counts[-2:].toarray(), query.cells.aligned(both)[0][rows].toarray()
    )
    assert joined.n_cells == query.reference.n_cells + 2
    assert joined.labels.iloc[-2:].to_numpy().tolist() == query.labels.iloc[rows].values.tolist()


def test_labels_that_expression_does_not_tell_are_not_learned(prepared):
    (spec,) = resolve(["logistic_regression"])
    level = {
        row["level"]: row
        for row in headroom.measure(headroom.LabelledQuery(prepared, 0), spec, "query")
    }
    assert level["cell_type"]["macro_f1"] > 0.95
    truth = prepared.folder / "truth" / "labels.csv"
    table = pd.read_csv(truth)
    table.sample(frac=1, random_state=0).to_csv(truth, index=False)
    (*_, shuffled) = headroom.measure(headroom.LabelledQuery(prepared, 0), spec, "query")
    assert shuffled["macro_f1"] < 0.6  # chance is one third


def test_rows_that_are_there_are_not_measured_again(own_pair, tmp_path, capsys):
    out = tmp_path / "headroom.json"
    call = ["--pairs", str(own_pair), "--work", str(tmp_path / "work"), "--out", str(out)]
    call += ["--methods", "majority", "--seeds", "0"]
    headroom.main([*call, "--labels", "query"])
    headroom.main(call)
    assert len(capsys.readouterr().out.splitlines()) == 2
    rows = json.loads(out.read_text())
    assert [(r["labels"], r["level"]) for r in rows] == [
        ("query", "lineage"),
        ("query", "cell_type"),
        ("query and reference", "lineage"),
        ("query and reference", "cell_type"),
    ]
    assert rows[0]["accuracy"] == pytest.approx(0.8)  # 40 of 50 are T cells


def test_the_page_compares_with_what_can_be_won(tmp_path):
    def rows(value, pair, **more):
        row = {"pair": pair, "method": "majority", "level": "fine", "macro_f1": value}
        return [{**row, "seed": seed, **more} for seed in (0, 1)]

    (tmp_path / "accuracy.json").write_text(json.dumps(rows(0.1, "p") + rows(0.3, "q")))
    own = rows(0.5, "p", labels="query") + rows(0.8, "q", labels="query")
    (tmp_path / "headroom.json").write_text(json.dumps(own))
    report = Report(tmp_path)
    assert report._overview().splitlines()[-1].endswith("| 0.300 ± 0.000 | 0.200 ± 0.000 |")
    assert report._headroom().splitlines()[-1] == (
        "| majority class | four fifths of the query | 0.500 ± 0.000 | 0.800 ± 0.000 "
        "| 0.650 ± 0.000 |"
    )
