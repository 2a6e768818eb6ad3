"""Figures on the page are those of the result, computed here in another way."""

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from hdeepinsight import report
from hdeepinsight.annotation import Annotation, decode, evaluate_annotation
from hdeepinsight.report._text import ENTRIES

BIBLIOGRAPHY = Path(__file__).parents[2] / "docs" / "references.bib"


@pytest.fixture(scope="module")
def clusters(full) -> pd.Series:
    names = np.random.default_rng(0).choice(["one", "two", "three"], 200)
    return pd.Series(names, index=full.obs_names).where(names != "three")


@pytest.fixture(scope="module")
def written(full, page, clusters):
    truth = full.leaf_nodes.copy()
    truth[:40] = full.taxonomy.resolve("NK")
    truth[40:60] = 0
    return page(full, clusters=clusters, true_nodes=truth), truth


@pytest.fixture(scope="module")
def facts(written) -> dict:
    return written[0].facts


def test_shown_rows_are_those_for_machines(written):
    found = written[0]
    rows = [row for table in found.facts["tables"].values() for row in table["rows"]]
    bodies = sum(len(table["rows"]) + 1 for table in found.facts["tables"].values())
    assert len(found.all("tr")) == bodies
    first = [text.strip() for attributes, text in found.all("th") if attributes["scope"] == "row"]
    for row, shown in zip(rows, first, strict=True):
        name = next(iter(row.values()))
        assert shown == (name if isinstance(name, str) else f"{name:,}")


@pytest.mark.parametrize("level", [1, 2, 3])
def test_composition(full, facts, level):
    name = full.taxonomy.level_names[level - 1]
    expected = full.label_column(level).value_counts()
    rows = pd.DataFrame(facts["tables"][f"level_{level}"]["rows"])
    for label, group in rows.groupby("Label"):
        assert group["Cells"].sum() == expected[label], (name, label)
    assert rows["Share of cells"].sum() == pytest.approx(1)
    assert rows["Cells"].is_monotonic_decreasing
    confident = (rows["Cells"] * rows["Confident at this level"].fillna(0)).sum()
    assert confident == pytest.approx((full.stop_depth >= level).sum())


def test_confidence_of_labels(full, facts):
    rows = facts["tables"]["labels"]["rows"]
    assert sum(row["Cells"] for row in rows) == 200
    for row in rows:
        path = " > ".join(filter(None, [row["Within"], row["Label"]]))
        node = 0 if path == "Unknown" else full.taxonomy.resolve(path)
        own = full.confidence[full.stop_nodes == node]
        assert row["Cells"] == len(own)
        assert row["Mean"] == pytest.approx(own.mean())
        assert row["Median"] == pytest.approx(own.median())
        assert row["5 % lie below"] == pytest.approx(own.quantile(0.05))
        assert row["Mean margin"] == pytest.approx(full.margin[own.index].mean())
        assert sum(row["From 0 to 1"]) == len(own)


def test_stopped_cells_and_why(full, facts):
    free = decode(full.taxonomy, full.node_probabilities, threshold=full.threshold).stop
    above = ~np.isin(full.stop_nodes, full.taxonomy.leaves)
    rejected = free != full.stop_nodes
    assert rejected.sum() > 5
    rows = pd.DataFrame(facts["tables"]["stops"]["rows"])
    by_reason = rows.groupby("Why")["Cells"].sum()
    assert by_reason["rejected: novel to the reference"] == rejected.sum()
    assert by_reason["no child reaches 0.6"] == (above & ~rejected).sum()
    unsure = rows[rows["Why"] == "no child reaches 0.6"]
    assert (unsure["Mean of the best child"] < 0.6).all()
    inner = unsure[unsure["Stopped at"] != "Unknown"]
    assert (inner["Mean probability there"] >= 0.6).all()
    assert facts["key_figures"]["share_stopped"] == above.mean()
    assert facts["key_figures"]["share_unknown"] == (full.stop_nodes == 0).mean()


def test_clusters(full, clusters, facts):
    stop = full.labels["stop_label"].astype(str)
    rows = facts["tables"]["clusters"]["rows"]
    assert {row["Cluster"] for row in rows} == {"one", "two", "(no cluster)"}
    for row in rows:
        named = row["Cluster"] != "(no cluster)"
        own = clusters.index[clusters == row["Cluster"] if named else clusters.isna()]
        shares = stop[own].value_counts(normalize=True)
        assert row["Cells"] == len(own)
        assert row["Share of that label"] == pytest.approx(shares.iloc[0])
        assert shares[row["Most frequent label"]] == shares.iloc[0]
        assert row["Share of the second"] == pytest.approx(shares.iloc[1])
        assert row["Mean confidence"] == pytest.approx(full.confidence[own].mean())


def test_without_clusters_cells_are_grouped_by_where_they_stop(full, page):
    found = page(full)
    rows = pd.DataFrame(found.facts["tables"]["clusters"]["rows"])
    assert rows.groupby("Label")["Cells"].sum().to_dict() == full.summary()["n_cells"].to_dict()
    assert "No clusters were given" in found.text


def test_label_sets_and_novelty(full, facts):
    sizes = full.label_sets(0.1).size.value_counts()
    rows = facts["tables"]["label_sets"]["rows"]
    assert {row["Types in the set"]: row["Cells"] for row in rows} == sizes.to_dict()
    for row, column in zip(
        facts["tables"]["novelty"]["rows"], ("p_value", "lineage_p_value"), strict=True
    ):
        assert row["Novel cells"] == (full.novelty[column] <= 0.05).sum()
    by_type = pd.DataFrame(facts["tables"]["novelty_by_type"]["rows"])
    assert by_type["Novel to all types"].sum() == (full.novelty["p_value"] <= 0.05).sum()


def test_known_labels(full, written):
    found, truth = written
    expected = evaluate_annotation(full, truth)
    evaluation = found.facts["evaluation"]
    assert evaluation["n_cells"] == 180
    assert evaluation["hierarchical"]["f1"] == expected.hierarchical.f1
    assert f"F1 {expected.hierarchical.f1:.3f}" in found.text
    right = (full.leaf_nodes == truth)[truth > 0].mean()
    assert f"{right:.1%} are right" in str(found.all("img"))


def test_reports_decisions_and_recipe_are_all_there(full, written):
    text, facts = written[0].text, written[0].facts
    assert facts["input_report"] == full.input_report.to_dict()
    assert facts["gene_report"] == full.gene_report.to_dict()
    assert facts["decisions"] == [decision.to_dict() for decision in full.decisions]
    assert facts["recipe"] == full.recipe
    for said in (
        "200 cells × 900 genes were read from X (csr_matrix).",
        "2 cells hold zeros only.",
        "700 of 765 model genes are measured; they carry 95.0%",
        "Not measured: <b>, CD3E.",
        "adapt: left out Because nothing is gained. n: 0.25",
        "refine: applied Because neighbours agree. w: 0.5",
    ):
        assert said in text


def test_methods_say_what_was_recorded_and_cite_in_order(written):
    methods, references = written[0].facts["methods"], written[0].facts["references"]
    for said in (
        "hdeepinsight 0.1.0",
        "459 labelled cells; 31 others were held out by donor",
        "at most 133 epochs",
        "a probability of at least 0.6",
        "Refinement of labels among neighbouring cells was applied: neighbours agree.",
        "torch 2.6.0",
    ):
        assert said in methods
    cited = [int(n) for group in re.findall(r"\[([\d, ]+)\]", methods) for n in group.split(", ")]
    assert list(dict.fromkeys(cited)) == list(range(1, len(references) + 1))
    assert "scHDeepInsight" in references[0]


def test_an_annotation_read_back_tells_the_same_of_its_training(written, full, page):
    cells = ad.AnnData(obs=pd.DataFrame(index=full.obs_names))
    full.to_adata(cells)
    again = page(Annotation.from_adata(cells)).facts["methods"]
    first = written[0].facts["methods"]
    training = first[first.index("The network") : first.index("Values were read")]
    assert "459 labelled cells; 31 others were held out by donor" in training
    assert training in again


@pytest.mark.parametrize("value", ["many", None, [1], 2.5], ids=str)
def test_figures_of_a_foreign_recipe_are_repeated_as_they_are(annotated, page, nested, value):
    names = ("n_cells", "n_genes", "n_held_out", "n_lifted_labels")
    recipe = {"hdeepinsight": "0.1.0", "backbone": "compact", **dict.fromkeys(names, value)}
    methods = page(annotated(nested, 30, recipe=recipe)).facts["methods"]
    assert f"It was trained on {value} labelled cells" in methods


def test_an_annotation_of_another_tool_claims_nothing(annotated, page, nested):
    found = page(annotated(nested, 30, recipe={"tool": "CellTypist"}))
    assert "What made the probabilities is not recorded." in found.facts["methods"]
    assert found.facts["references"] == []
    assert "carries no report on its input" in found.text
    assert "label_sets" not in found.facts["tables"]


@pytest.mark.parametrize("key", ENTRIES)
def test_sources_are_those_of_the_bibliography(key):
    entry = BIBLIOGRAPHY.read_text().partition(f"{{{key},")[2].partition("\n}")[0]
    fields = dict(re.findall(r"(\w+)\s*= \{(.*)\},", entry))
    plain = {name: re.sub(r"[{}]", "", text) for name, text in fields.items()}
    assert plain["title"] in ENTRIES[key]
    assert f"({plain['year']})" in ENTRIES[key]
    assert plain.get("doi", "") in ENTRIES[key]
    assert ENTRIES[key].startswith(plain["author"].partition(",")[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"clusters": ["a"] * 3}, "clusters has 3 entries", id="length"),
        pytest.param({"embedding": np.zeros((7, 2))}, "embedding has 7", id="rows"),
        pytest.param({"embedding": np.zeros((200, 1))}, "two or more columns", id="one_column"),
        pytest.param({"embedding": np.zeros(200)}, "two or more columns", id="no_columns"),
        pytest.param({"true_nodes": np.zeros(3)}, "true_nodes has 3", id="nodes"),
        pytest.param({"true_nodes": ["B"] * 200}, "Encode labels with", id="labels"),
        pytest.param({"true_nodes": np.full(200, -1)}, "Encode labels with", id="codes"),
    ],
)
def test_what_does_not_fit_the_cells_is_refused(full, tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        report.write(full, tmp_path / "report.html", **options)
    assert list(tmp_path.iterdir()) == []


def test_clusters_of_cells_in_another_order_are_refused(full, clusters, tmp_path):
    with pytest.raises(ValueError, match=r"clusters\.loc\[obs_names\]"):
        report.write(full, tmp_path / "report.html", clusters=clusters[::-1])


def test_cells_without_coordinates_are_left_out_and_counted(full, page):
    coordinates = np.random.default_rng(0).normal(size=(200, 3))
    coordinates[:5] = np.nan
    found = page(full, embedding=coordinates)
    assert "5 cells have no coordinates." in found.text
    assert any(f["alt"].startswith("195 cells as dots") for f, _ in found.all("img"))
    nowhere = page(full, embedding=np.full((200, 2), np.nan))
    assert not any("dots" in f["alt"] for f, _ in nowhere.all("img"))
