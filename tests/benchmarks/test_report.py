"""Means, spreads, and what is marked as best."""

import json

import pytest
from harness.summary import Summary, clear_best, less, mean_over, means, summarise
from harness.tables import figure, replace_between, table
from readme_table import results_table
from report import Report


def rows(method, values, *, pair="p", level="fine", kind="peer"):
    same = {"pair": pair, "method": method, "kind": kind, "level": level}
    return [{**same, "seed": i, "macro_f1": value} for i, value in enumerate(values)]


def test_summary_over_seeds_leaves_out_what_is_missing():
    summary = summarise(rows("m", [0.5, None, 0.7]), "macro_f1")
    assert (summary.mean, summary.n) == (pytest.approx(0.6), 2)
    assert summary.half == pytest.approx(0.1)
    assert summarise(rows("m", [None]), "macro_f1") is None


def test_the_best_is_marked_only_outside_the_spread():
    for first, second, expected in [
        ((0.90, 0.02), (0.80, 0.05), "a"),
        ((0.90, 0.02), (0.86, 0.05), None),
        ((0.90, 0.12), (0.80, 0.00), None),
        ((0.901, 0.0), (0.900, 0.0), None),
    ]:
        found = clear_best({"a": Summary(*first, 3), "b": Summary(*second, 3), "c": None})
        assert found == expected


def test_a_mean_over_pairs_takes_seeds_that_were_run_on_all_of_them():
    both = rows("m", [0.5, 0.7, 0.9], pair="p") + rows("m", [0.7, 0.9], pair="q")
    mean = mean_over(both, "macro_f1", ["p", "q"])
    assert (mean.mean, mean.spread, mean.n) == (pytest.approx(0.7), pytest.approx(0.2), 2)
    assert mean_over(both, "macro_f1", ["p", "q", "r"]) is None


def test_a_variant_is_compared_with_the_default_of_its_own_seed():
    apart = less(
        rows("variant", [0.5, 0.9]), rows("m", [0.4, None, 0.7])[::2], "macro_f1", ["pair", "seed"]
    )
    assert [(row["seed"], row["macro_f1"]) for row in apart] == [(0, pytest.approx(0.1))]


def test_the_page_says_what_each_choice_is_worth(tmp_path):
    records = [
        *rows("schdeepinsight", [0.2, 0.3], level="coarse", kind="ours"),
        *rows("schdeepinsight", [0.8, 0.9], kind="ours"),
        *rows("random_layout", [0.9, 0.95], kind="control"),
    ]
    (tmp_path / "choices.json").write_text(json.dumps(records))
    assert Report(tmp_path)._choices().splitlines()[-2:] == [
        "| random pixel layout | +0.075 ± 0.025 | +0.075 ± 0.025 |",
        "| spread of the default | 0.050 | 0.050 |",
    ]
    (tmp_path / "choices.json").write_text("[]")
    assert Report(tmp_path)._choices() == ""


def test_nothing_is_best_on_a_single_seed():
    assert clear_best({"a": Summary(0.9, 0.0, 1), "b": Summary(0.1, 0.0, 1)}) is None


def test_the_lowest_is_best_where_low_is_good():
    summaries = {"a": Summary(0.2, 0.01, 3), "b": Summary(0.1, 0.01, 3)}
    assert clear_best(summaries, lower_is_better=True) == "b"


def test_figures_in_a_table():
    assert figure(Summary(0.51234, 0.02, 3)) == "0.512 ± 0.010"
    assert figure(Summary(0.51234, 0.0, 1), bold=True) == "**0.512**"
    assert figure(Summary(0.51234, 0.02, 3), signed=True) == "+0.512 ± 0.010"
    assert figure(Summary(-0.51234, 0.0, 1), signed=True) == "-0.512"
    assert figure(None) == "–"
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_readme_table_shows_the_finest_level_of_a_few_methods():
    records = (
        rows("schdeepinsight_mapped", [0.1], level="coarse", kind="ours")
        + rows("schdeepinsight_mapped", [0.8, 0.9], kind="ours")
        + rows("random_layout", [0.9, 0.9], kind="control")
        + rows("popv", [0.5, 0.5])
    )
    assert results_table(records).splitlines()[2:] == [
        "| SCHDeepInsight, adapted and refined | **0.850 ± 0.050** | **0.850 ± 0.050** |",
        "| popV consensus | 0.500 ± 0.000 | 0.500 ± 0.000 |",
    ]


def test_means_are_over_shared_pairs_and_over_all():
    records = [
        *rows("schdeepinsight", [0.8]),
        *[row | {"pair": "hard"} for row in rows("schdeepinsight", [0.6])],
        *rows("popv", [0.5]),
    ]
    found = means(records, ["schdeepinsight", "popv"])
    assert list(found) == ["mean of 1", "mean of 2"]
    assert found["mean of 1"]["popv"].mean == 0.5
    assert found["mean of 2"]["schdeepinsight"].mean == pytest.approx(0.7)
    assert found["mean of 2"]["popv"] is None


def test_a_page_keeps_everything_around_the_marks():
    begin, end = "<!-- speed:begin -->", "<!-- speed:end -->"
    page = f"before\n{begin}\nold \\1\n{end}\nafter\n"
    after = replace_between(page, "speed", "new \\1")
    assert after == f"before\n{begin}\nnew \\1\n{end}\nafter\n"
    with pytest.raises(ValueError, match="one"):
        replace_between("no marks", "speed", "new")
