"""Score and label tables of other tools."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi

TREE = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
CELLS = ad.AnnData(obs=pd.DataFrame(index=["a", "b", "c"]))
PROBABILITIES = pd.DataFrame(
    {"CD4": [0.1, 0.7, 0.2], "CD8": [0.1, 0.2, 0.7], "B": [0.8, 0.1, 0.1]}, index=["c", "a", "b"]
)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_files_are_read_by_the_names_of_the_cells(tmp_path, suffix):
    path = tmp_path / f"scores{suffix}"
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        PROBABILITIES.to_parquet(path)
    else:
        PROBABILITIES.to_csv(path, sep="," if suffix == ".csv" else "\t")
    result = hdi.tl.read_scores(CELLS, path, TREE)
    assert result.labels["stop_label"].tolist() == ["CD4", "CD8", "B"]
    np.testing.assert_allclose(result.probabilities()["B"], [0.1, 0.1, 0.8])


def test_logits_and_probabilities_give_the_same_result():
    logits = np.log(PROBABILITIES) + 3.0
    wanted = hdi.tl.read_scores(CELLS, PROBABILITIES, TREE).node_probabilities
    for given, temperature in ((logits, None), (logits, 1.0), (logits * 0.05, 0.05)):
        result = hdi.tl.read_scores(CELLS, given, TREE, temperature=temperature)
        np.testing.assert_allclose(result.node_probabilities, wanted, atol=1e-12)


def test_scores_of_independent_classes_are_normalised():
    result = hdi.tl.read_scores(CELLS, PROBABILITIES / 2, TREE)
    wanted = hdi.tl.read_scores(CELLS, PROBABILITIES, TREE)
    np.testing.assert_allclose(result.node_probabilities, wanted.node_probabilities)


def test_tables_of_labels_keep_their_confidence(tmp_path):
    own = hdi.tl.read_scores(CELLS, PROBABILITIES, TREE, threshold=0.75)
    cells = ad.AnnData(obs=pd.DataFrame(index=["a", "NA", "c"]))  # a name, not a missing value
    for prefix in ("", "hdi_"):  # of a table, and of obs
        frame = own.to_frame(details=True).add_prefix(prefix).assign(donor="x")
        frame.set_axis(cells.obs_names).to_csv(tmp_path / "labels.csv")
        result = hdi.tl.read_scores(cells, tmp_path / "labels.csv", TREE)
        assert result.labels.set_axis(CELLS.obs_names).equals(own.labels)
        np.testing.assert_allclose(result.confidence, own.confidence)
    (tmp_path / "r.tsv").write_text("prediction\tconfidence\nc\tCD4\t0.9\na\tB\t0.8\nNA\tT\t0.7\n")
    result = hdi.tl.read_scores(cells, tmp_path / "r.tsv", TREE)  # R names no column of names
    assert result.labels["stop_label"].tolist() == ["B", "T", "CD4"]
    table = pd.DataFrame(
        {
            "predicted_labels": ["CD4", "B", "T"],
            "majority_voting": ["T", "B", "T"],
            "conf_score": [0.9, 0.4, 0.8],
        },
        index=["a", "b", "c"],
    )
    result = hdi.tl.read_scores(CELLS, table, TREE)
    assert result.labels["stop_label"].tolist() == ["CD4", "Unknown", "T"]
    votes = pd.DataFrame(
        {
            "popv_knn_prediction": ["CD4", "B", "CD4"],
            "popv_svm_prediction": ["CD4", "T", "CD8"],
            "popv_prediction": ["CD4", "B", "T"],
            "popv_prediction_score": [2, 1, 2],
        },
        index=["a", "b", "c"],
    )
    result = hdi.tl.read_scores(CELLS, votes, TREE)
    assert result.confidence.round(2).tolist()[0] == 1.0
    assert result.labels["stop_label"].tolist()[0] == "CD4"


def test_read_scores_can_be_refined():
    rng = np.random.default_rng(0)
    cells = ad.AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(60)]))
    values = pd.DataFrame(rng.normal(size=(60, 3)), cells.obs_names, ["CD4", "CD8", "B"])
    result = hdi.tl.read_scores(cells, values.sample(frac=1, random_state=0), TREE)
    refined = hdi.tl.refine(cells, result, use_rep=rng.normal(size=(60, 4)))
    assert len(refined.annotation()) == 60


def test_rows_of_other_cells_are_left_out_with_a_warning():
    more = pd.concat([PROBABILITIES, PROBABILITIES.iloc[:1].set_axis(["z"])])
    with pytest.warns(UserWarning, match="Ignored 1 other cell"):
        result = hdi.tl.read_scores(CELLS, more, TREE)
    assert result.obs_names.tolist() == ["a", "b", "c"]


def test_invalid_tables_are_refused():
    for change, said in [
        (lambda t: t.drop("a"), "none for 1 cell of 3: a"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "1 name more than once in the table: c"),
        (lambda t: t.mask(t > 0.75), "NaN or infinite ones in 1 of 3 cells"),
        (lambda t: t.rename(columns={"B": "Plasma"}), "Plasma"),
        (lambda t: t.assign(note="x"), "1 column: note"),
    ]:
        with pytest.raises(ValueError, match=said):
            hdi.tl.read_scores(CELLS, change(PROBABILITIES), TREE)


def test_invalid_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        hdi.tl.read_scores(CELLS, tmp_path / "missing.csv", TREE)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match="could not be read"):
        hdi.tl.read_scores(CELLS, tmp_path / "a.csv", TREE)
    missing = pd.DataFrame(
        {"prediction": ["B"] * 3, "confidence": [0.9, np.nan, 1]}, index=["a", "b", "c"]
    )
    with pytest.raises(ValueError, match="1 cell with NaN"):
        hdi.tl.read_scores(CELLS, missing, TREE)
    with pytest.raises(ValueError, match="temperature"):
        hdi.tl.read_scores(CELLS, PROBABILITIES, TREE, temperature=0)


def test_tables_of_several_levels_are_read_down_to_where_they_agree(tmp_path):
    azimuth = pd.DataFrame(
        {
            "predicted.celltype.l1": ["T", "T", "B"],
            "predicted.celltype.l1.score": [0.99, 0.9, 0.7],
            "predicted.celltype.l2": ["CD4", "CD8", "CD8"],
            "predicted.celltype.l2.score": [0.8, 0.6, 0.9],
        },
        index=["a", "b", "c"],
    )
    with pytest.warns(UserWarning, match=r"1 cell of 3 at 2 levels contradict"):
        result = hdi.tl.read_scores(CELLS, azimuth, TREE)
    assert result.labels["stop_label"].tolist() == ["CD4", "CD8", "Unknown"]
    np.testing.assert_allclose(result.confidence[:2], [0.8, 0.6])

    names = ("class", "subclass")
    columns = [f"{name}_{what}" for name in names for what in ("name", "bootstrapping_probability")]
    mapped = azimuth.set_axis(columns, axis=1).iloc[:2]
    path = tmp_path / "mapped.csv"
    path.write_text("# metadata = x.json\n# version 1\n" + mapped.to_csv(index_label="cell_id"))
    result = hdi.tl.read_scores(CELLS[:2], path, TREE)
    assert result.labels["stop_label"].tolist() == ["CD4", "CD8"]
    np.testing.assert_allclose(result.confidence, [0.8, 0.6])

    pruned = pd.DataFrame({"labels": ["CD4", "B"], "pruned.labels": ["CD4", None]}, ["a", "b"])
    result = hdi.tl.read_scores(CELLS[:2], pruned, TREE)
    assert result.labels["stop_label"].tolist() == ["CD4", "Unknown"]


def test_contradictions_are_counted_per_combination():
    labels = pd.DataFrame(
        {
            "l1": ["T", "B", "B", "T", None, "T"],
            "l2": ["CD4", "CD4", "CD4", "unassigned", "B", "T"],
            "l3": ["CD4", "CD4", "CD4", "T", "B", "CD8"],
        }
    )
    found = hdi.tl.contradictions(labels, TREE)
    assert found.to_dict("records") == [
        {"l1": "B", "l2": "CD4", "l3": "CD4", "agreed": "Unknown", "n_cells": 2}
    ]
    deep = hdi.Taxonomy.from_nested({"L": {"T": ["CD4", "CD8"], "B": []}})
    assert hdi.tl.contradictions(labels[["l1", "l2"]], deep)["agreed"].tolist() == ["L"]
    none = hdi.tl.contradictions(labels.iloc[:1], TREE)
    assert len(none) == none["n_cells"].sum() == 0
    with pytest.raises(ValueError, match=r"one column per level"):
        hdi.tl.contradictions(labels[[]], TREE)
    with pytest.raises(ValueError, match=r"'NK'"):
        hdi.tl.contradictions(labels.replace("B", "NK"), TREE)
