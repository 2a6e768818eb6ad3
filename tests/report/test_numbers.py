"""Numbers in the report, compared with independent computations."""

import base64
import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from hdeepinsight import report
from hdeepinsight.annotation import Annotation, Verdict, evaluate_annotation
from hdeepinsight.hub import load_annotator
from hdeepinsight.taxonomy import Taxonomy

BIBLIOGRAPHY = Path(__file__).parents[2] / "docs" / "references.bib"
SOURCES = files("hdeepinsight.report") / "templates" / "references.json"
ENTRIES = json.loads(SOURCES.read_text(encoding="utf-8"))


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


def test_shown_rows_equal_the_json(written):
    found = written[0]
    rows = [row for table in found.facts["tables"].values() for row in table["rows"]]
    bodies = sum(len(table["rows"]) + 1 for table in found.facts["tables"].values())
    assert len(found.all("tr")) == bodies
    first = [text.strip() for attributes, text in found.all("th") if attributes["scope"] == "row"]
    for row, shown in zip(rows, first, strict=True):
        name = next(iter(row.values()))
        assert shown == (name if isinstance(name, str) else f"{name:,}").strip()


def test_composition(full, facts):
    rows = pd.DataFrame(facts["tables"]["composition"]["rows"]).set_index("Label")
    tree = full.taxonomy
    assert sum(rows["Stop here"]) == 200
    for node in (1, 2, 3, tree.resolve("CD8")):
        at = tree.node_at_level[full.stop_nodes, tree.depth[node] - 1] == node
        row = rows.loc[tree.label(node)]
        assert row["Cells"] == at.sum()
        assert row["Share of cells"] == pytest.approx(at.mean())
        assert row["Stop here"] == (full.stop_nodes == node).sum()
        own = full.node_probabilities[at, node]
        assert row["Mean probability"] == pytest.approx(own.mean())
        assert row["5th percentile"] == pytest.approx(np.quantile(own, 0.05))
        assert sum(row["Probability from 0 to 1"]) == at.sum()
    assert rows.loc["Unknown", "Cells"] == (full.stop_nodes == 0).sum()


def test_label_repeated_at_lower_levels_is_one_row(page):
    tree = Taxonomy.from_obs(
        pd.DataFrame({"a": ["B", "T", "T"], "b": ["B", "CD4", "CD8"], "c": ["B", "CD4", "CD8"]}),
        ["a", "b", "c"],
    )
    result = Annotation.from_labels(pd.Series(["B"] * 3 + ["CD4"], index=list("abcd")), tree)
    rows = page(result).facts["tables"]["composition"]["rows"]
    assert [(row["Label"], row["Cells"]) for row in rows] == [("B", 3), ("T", 1), ("CD4", 1)]


def test_stopped_cells_and_why(full, facts):
    above = ~np.isin(full.stop_nodes, full.taxonomy.leaves)
    rows = pd.DataFrame(facts["tables"]["stops"]["rows"])
    by_reason = rows.groupby("Reason")["Cells"].sum()
    expected = full.stop_reason[above].value_counts()
    assert len(expected) > 1
    assert by_reason.to_dict() == expected.to_dict()
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


def test_no_clusters_no_table(full, page):
    found = page(full)
    assert "clusters" not in found.facts["tables"]
    assert not any(attributes.get("id") == "by-cluster" for attributes, _ in found.all("h2"))


def test_label_sets_and_novelty(full, facts):
    sizes = full.label_sets(0.1).size.value_counts()
    rows = facts["tables"]["label_sets"]["rows"]
    assert {row["Types in the set"]: row["Cells"] for row in rows} == sizes.to_dict()
    found = {row["Found"]: row["Cells"] for row in facts["tables"]["novelty"]["rows"]}
    assert found["no known lineage"] == (full.novelty["lineage_p_value"] <= 0.05).sum()
    assert found["doublets of two lineages"] == full.novelty["is_doublet"].sum()
    by_type = pd.DataFrame(facts["tables"]["novelty_by_type"]["rows"])
    n_novel = (by_type["No known lineage"] * by_type["Cells"]).sum()
    assert n_novel == pytest.approx((full.novelty["lineage_p_value"] <= 0.05).sum())


def test_known_labels(full, written):
    found, truth = written
    expected = evaluate_annotation(full, truth)
    evaluation = found.facts["evaluation"]
    assert evaluation["n_cells"] == 180
    assert evaluation["hierarchical"]["f1"] == expected.hierarchical.f1
    assert f"F1 {expected.hierarchical.f1:.3f}" in found.text
    right = (full.leaf_nodes == truth)[truth > 0].mean()
    assert f"{right:.1%} are correct" in str(found.all("img"))


def test_page_contains_reports_decisions_and_recipe(full, written):
    text, facts = written[0].text, written[0].facts
    assert facts["input_report"] == full.input_report.to_dict()
    assert facts["gene_report"] == full.gene_report.to_dict()
    assert facts["decisions"] == [decision.to_dict() for decision in full.decisions]
    assert facts["recipe"] == full.recipe
    for said in (
        "200 cells × 900 genes were read from X (csr_matrix).",
        "Cells without counts: 2.",
        "700 of 765 model genes are measured; they account for 95.0%",
        "Not measured: <b>, CD3E.",
        "Model not adapted to the query: nothing is gained.",
        "Labels smoothed over the neighbour graph: neighbours agree.",
    ):
        assert said in text


def test_methods_state_the_recipe_and_cite_in_order(written):
    methods, references = written[0].facts["methods"], written[0].facts["references"]
    for said in (
        "hdeepinsight 0.1.0",
        "459 labelled cells; 31 others were held out by donor",
        "at most 133 epochs",
        "a probability of at least 0.6",
        "Labels smoothed over the neighbour graph: neighbours agree.",
        "torch 2.6.0",
    ):
        assert said in methods
    assert not re.search(r"[.)][A-Z]", methods), "sentences without a space"
    cited = [int(n) for group in re.findall(r"\[([\d, ]+)\]", methods) for n in group.split(", ")]
    assert list(dict.fromkeys(cited)) == list(range(1, len(references) + 1))
    assert "scHDeepInsight" in references[0]


def test_methods_of_an_annotation_read_back(written, full, page):
    cells = ad.AnnData(obs=pd.DataFrame(index=full.obs_names))
    full.to_adata(cells)
    again = page(Annotation.from_adata(cells)).facts["methods"]
    first = written[0].facts["methods"]
    training = first[first.index("The input of") : first.index("Values were read")]
    assert "459 labelled cells; 31 others were held out by donor" in training
    assert training in again


def test_values_of_other_recipes_are_shown_unchanged(annotated, page, nested):
    for value in ["many", None, [1], 2.5]:
        names = ("n_cells", "n_genes", "n_held_out", "n_lifted_labels")
        recipe = {"hdeepinsight": "0.1.0", "backbone": "compact", **dict.fromkeys(names, value)}
        methods = page(annotated(nested, 30, recipe=recipe)).facts["methods"]
        assert f"It was trained on {value} labelled cells" in methods


def test_annotation_of_another_tool_has_no_methods(annotated, page, nested):
    found = page(annotated(nested, 30, recipe={"tool": "CellTypist"}))
    assert "How the probabilities were computed is not recorded." in found.facts["methods"]
    assert found.facts["references"] == []
    assert "has no report on its input" in found.text
    assert "label_sets" not in found.facts["tables"]
    bare = annotated(nested, 30, recipe={"markers": "blood"})
    found = page(replace(bare, threshold=np.nextafter(0.5, 1.0)))
    assert "by a mixture model of the counts of marker genes" in found.facts["methods"]
    assert "at least 0.5." in found.facts["methods"]
    assert re.search(r"(threshold|is at least) 0\.5\W", found.text)


def test_references_equal_the_bibliography():
    for key in ENTRIES:
        entry = BIBLIOGRAPHY.read_text().partition(f"{{{key},")[2].partition("\n}")[0]
        fields = dict(re.findall(r"(\w+)\s*= \{(.*)\},", entry))
        plain = {name: re.sub(r"[{}]", "", text) for name, text in fields.items()}
        assert plain["title"] in ENTRIES[key]
        assert f"({plain['year']})" in ENTRIES[key]
        assert plain.get("doi", "") in ENTRIES[key]
        assert ENTRIES[key].startswith(plain["author"].partition(",")[0])


def test_arguments_of_other_cells_raise(full, tmp_path_factory):
    for options, says in [
        ({"clusters": ["a"] * 3}, "clusters has 3 entries"),
        ({"embedding": np.zeros((7, 2))}, "embedding has 7"),
        ({"embedding": np.zeros((200, 1))}, "two or more columns"),
        ({"embedding": np.zeros(200)}, "two or more columns"),
        ({"query": ad.AnnData(np.ones((3, 2)))}, "query has 3"),
        ({"true_nodes": np.zeros(3)}, "true_nodes has 3"),
        ({"true_nodes": ["B"] * 200}, "taxonomy.encode"),
        ({"true_nodes": np.full(200, -1)}, "taxonomy.encode"),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        with pytest.raises(ValueError, match=says):
            report.write(full, tmp_path / "report.html", **options)
        assert list(tmp_path.iterdir()) == []


def test_clusters_in_another_order_raise(full, clusters, tmp_path):
    with pytest.raises(ValueError, match=r"clusters\.loc\[obs_names\]"):
        report.write(full, tmp_path / "report.html", clusters=clusters[::-1])


def cells(found) -> dict:
    """What the picture of the cells is drawn from."""
    text = [text for a, text in found.all("script") if a.get("id") == "hdeepinsight-cells"]
    return json.loads(text[0]) if text else {}


def unpacked(text: str, dtype: str = "<u1") -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def test_cells_without_coordinates_are_counted(full, page):
    coordinates = np.random.default_rng(0).normal(size=(200, 3))
    coordinates[:5] = np.nan
    found = page(full, embedding=coordinates)
    assert "5 cells have no coordinates." in found.text
    assert cells(found)["n_shown"] == 195
    assert cells(page(full, embedding=np.full((200, 2), np.nan))) == {}


def test_scatter_plot_has_coordinates_and_values(full, page):
    coordinates = np.random.default_rng(0).normal(size=(200, 2))
    drawn = cells(page(full, embedding=coordinates))
    rows = full.obs_names.get_indexer(drawn["names"])
    for name, axis in (("x", 0), ("y", 1)):
        place = unpacked(drawn[name], "<u2").astype(float)
        assert np.corrcoef(place, coordinates[rows, axis])[0, 1] > 0.9999
    fields = {field["name"]: field for field in drawn["fields"]}
    given = fields["assigned label"]
    labels = np.array(given["labels"])[unpacked(given["values"])]
    assert labels.tolist() == full.label_column().iloc[rows].tolist()
    assert given["colors"] == [full.colors[label] for label in given["labels"]]
    sure = unpacked(fields["confidence"]["values"]) / 254
    np.testing.assert_allclose(sure, full.confidence.iloc[rows], atol=0.5 / 254)


@pytest.fixture(scope="module")
def query(full) -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (200, 30)).astype(np.float32)
    cells = ad.AnnData(counts, var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)]))
    cells.obs_names = full.obs_names
    cells.obs["leiden"] = pd.Categorical(rng.choice(["0", "1"], 200))
    cells.obs["donor"] = rng.choice(["x", "y"], 200)
    cells.obs["depth"] = counts.sum(axis=1)
    return cells


def test_coordinates_clusters_and_columns_of_the_query_are_used(full, page, query, tmp_path):
    query = query.copy()
    query.obsm["X_umap"] = np.random.default_rng(1).normal(size=(200, 2))
    query.write_h5ad(tmp_path / "query.h5ad")
    for given in (query, tmp_path / "query.h5ad"):
        found = page(full, query=given, color_by=["depth"])
        assert "from obsm['X_umap'] of the query" in found.text
        assert len(found.facts["tables"]["clusters"]["rows"]) == 2
        names = [field["name"] for field in cells(found)["fields"]]
        assert {"cluster", "donor", "depth"} <= set(names)
    found = page(full, query=query, clusters="donor")
    assert {row["Cluster"] for row in found.facts["tables"]["clusters"]["rows"]} == {"x", "y"}


def test_missing_coordinates_are_computed(full, page, query):
    found = page(full, query=query)
    assert "an embedding of its expression was computed" in found.text
    assert cells(found)["n_shown"] == 200


def test_unreadable_query_still_gives_a_report(full, page, query):
    scaled = query.copy()
    scaled.X = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    found = page(full, query=scaled)
    assert "There is no plot of the cells, because embedding them failed:" in found.text
    assert "Marker genes could not be read from the query" in found.text
    assert cells(found) == {}


def test_missing_column_raises(full, query, tmp_path):
    with pytest.raises(KeyError, match="no column 'sex'"):
        report.write(full, tmp_path / "page.html", query=query, color_by="sex")
    with pytest.raises(KeyError, match="no column 'sex'"):
        report.write(full, tmp_path / "page.html", query=query, clusters="sex")
    with pytest.raises(KeyError, match="Pass the query, which has them"):
        report.write(full, tmp_path / "page.html", clusters="sex")
    with pytest.raises(ValueError, match="reference has no effect without a query"):
        report.write(full, tmp_path / "page.html", reference=load_annotator("pbmc"))
    with pytest.raises(ValueError, match="reference must be a trained model, got 'str'"):
        report.write(full, tmp_path / "page.html", query=query, reference="pbmc")


def test_verdict_comes_first(full, page):
    said = ("The query looks like the reference in part.", "2 % of the cells fit no lineage.")
    verdict = Verdict(light="yellow", sentences=said, figures={"unrecognised": 0.02})
    found = page(replace(full, verdict=verdict))
    assert found.facts["verdict"]["light"] == "yellow"
    assert found.all("h2")[0][1] == "Yellow: use these labels with care"
    assert [text for _, text in found.all("li") if text in said] == list(said)
    assert page(full).facts["verdict"]["light"] == ""


def test_evidence_lists_supporting_and_contradicting_genes(page):
    tree = Taxonomy.from_nested({"T": [], "B": []}).with_annotations(
        ontology_ids={"T": "CL:0000084", "B": "CL:0000236"}
    )
    genes = ["CD3D", "CD3E", "MS4A1", "CD79A", "ACTB"]
    counts = np.array([[9, 8, 0, 0, 20]] * 20 + [[0, 0, 9, 7, 20]] * 20, dtype=np.float32)
    query = ad.AnnData(counts, var=pd.DataFrame(index=genes))
    labels = pd.Series(["T"] * 20 + ["B"] * 20, index=query.obs_names)
    found = page(Annotation.from_labels(labels, tree), query=query)
    rows = {row["Label"]: row for row in found.facts["tables"]["evidence"]["rows"]}
    assert rows["T"]["Higher here"] == "CD3D, CD3E"
    assert rows["B"]["Markers"] == "supported (2 of 2)"
    meant = {row["Label"]: row for row in found.facts["tables"]["definitions"]["rows"]}
    assert meant["B"]["Id"] == "CL:0000236"
    assert any("Dot plot of" in image["alt"] for image, _ in found.all("img"))
    links = [a["href"] for a, text in found.all("a") if text.strip() == "B"]
    assert set(links) == {"http://purl.obolibrary.org/obo/CL_0000236"}
    wrong = page(Annotation.from_labels(labels[::-1].set_axis(labels.index), tree), query=query)
    assert "B is contradicted by its own markers" in wrong.facts["verdict"]["sentences"][-1]
