"""The ablation keeps what was measured, and its table shows what there is."""

import json

import ablation
import pytest
from harness.components import COMPONENTS
from report import Report


def component_rows(name, value, pair="p", share=0.0, seed=0):
    return {
        "pair": pair,
        "method": name,
        "seed": seed,
        "level": "fine",
        "missing_genes": share,
        "macro_f1": value,
        "accuracy": value,
    }


def test_components_have_names_of_their_own():
    names = [component.name for component in COMPONENTS]
    assert len(set(names)) == len(names)
    assert COMPONENTS[0].options == {"adapt": "off", "refine": "off"}


def test_rows_that_are_there_are_not_measured_again(own_pair, tmp_path, monkeypatch):
    asked = []

    def rows(self, component, share):
        asked.append((component.name, share))
        return [component_rows(component.name, 0.5, self.prepared.pair.name, share, self.seed)]

    monkeypatch.setattr(ablation.Bench, "rows", rows)
    out = tmp_path / "ablation.json"
    call = ["--pairs", str(own_pair), "--work", str(tmp_path / "work"), "--out", str(out)]
    call += ["--seeds", "0", "--components", "none", "adapt"]
    ablation.main(call)
    ablation.main([*call, "--missing", "0.5"])
    assert asked == [("none", 0.0), ("adapt", 0.0), ("none", 0.5), ("adapt", 0.5)]
    assert len(json.loads(out.read_text())) == 4


def test_a_mean_needs_every_pair(tmp_path):
    accuracy = [
        {"pair": pair, "method": "majority", "seed": 0, "level": "fine", "macro_f1": 0.1}
        for pair in ("p", "q")
    ]
    components = [
        component_rows("none", 0.5, "p"),
        component_rows("none", 0.7, "q"),
        component_rows("vote", 0.4),
    ]
    (tmp_path / "accuracy.json").write_text(json.dumps(accuracy))
    (tmp_path / "ablation.json").write_text(json.dumps(components))
    report = Report(tmp_path)
    lines = report._by_component(report.components, "macro_f1").splitlines()
    assert lines[0] == "| component | p | q | mean |"
    assert lines[2:] == [
        "| zero-shot | 0.500 | 0.700 | 0.600 |",
        "| vote of clusters | 0.400 | – | – |",
    ]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_page_has_a_table_a_share(tmp_path, share):
    row = {"pair": "p", "method": "majority", "seed": 0, "level": "fine", "macro_f1": 0.1}
    (tmp_path / "accuracy.json").write_text(json.dumps([row]))
    (tmp_path / "ablation.json").write_text(json.dumps([component_rows("none", 0.5, share=share)]))
    title = "50% of the genes removed" if share else "all genes"
    assert f"### Components, {title}: macro-F1" in Report(tmp_path)._ablation()
