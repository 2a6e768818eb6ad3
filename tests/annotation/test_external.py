"""Annotations from other tools, and tables in their formats."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from annotated_files import cells, saved

from hdeepinsight.annotation import Annotation, Verdict
from hdeepinsight.taxonomy import LabelWarning, Taxonomy

RECIPE = {
    "seed": 3,
    "max_lr": 1e-3,
    "split_key": None,
    "split": (1, 2),
    "refine": {"method": "local_prior", "lam": np.float64(0.25)},
    "model": "published",
    "version": "1.10",
    "word": '"quoted"',
}


def test_an_annotation_is_read_back(tmp_path_factory, ragged, annotated):
    for threshold in [0.7, None]:
        for suffix in [".h5ad", ".zarr"]:
            tmp_path = tmp_path_factory.mktemp("case")
            result = annotated(ragged, threshold=threshold, decoder="greedy", recipe=RECIPE)
            limit = np.arange(60) % 3
            verdict = Verdict(
                light="yellow", sentences=("Half of it fits.",), figures={"share": 0.5}
            )
            result = replace(
                result,
                node_thresholds=np.linspace(0.5, 0.9, ragged.n_nodes),
                supported_depth=limit,
                stop_reasons=np.where(limit < 2, "few counts", "").astype(object),
                verdict=verdict,
            )
            adata = cells()
            result.to_adata(adata, key_added="a/b")
            read = Annotation.from_adata(saved(adata, tmp_path / f"back{suffix}"), "a/b")
            pd.testing.assert_frame_equal(
                read.to_frame(), result.to_frame(), check_index_type=False, check_dtype=False
            )
            np.testing.assert_array_equal(read.node_probabilities, result.node_probabilities)
            assert (read.taxonomy, read.threshold, read.decoder) == (ragged, threshold, "greedy")
            assert read.recipe == RECIPE | {"split": [1, 2]}
            assert read.verdict == verdict
            assert set(read.stop_reason) >= {"few counts", ""}
            with pytest.raises(KeyError, match="no annotation under 'hdi'"):
                Annotation.from_adata(adata)


def test_labels_of_another_tool_are_kept(ragged):
    labels = pd.Series(
        ["Th1", "T", None, "B > memory", "NK", "Heterogeneous"], index=list("abcdef")
    )
    result = Annotation.from_labels(labels, ragged, confidence=[0.8, 0.7, 0.1, 0.2, 1.0, 0.9])
    assert result.obs_names.tolist() == list("abcdef")
    # The fourth is less likely than not; T, which has more types than B, does not profit.
    expected = ["Th1", "T", "Unknown", "Unknown", "NK", "Unknown"]
    assert result.labels["stop_label"].tolist() == expected
    assert result.confidence.iloc[[0, 1, 4]].tolist() == pytest.approx([0.8, 0.7, 1.0])
    p = result.node_probabilities
    np.testing.assert_allclose(p[:, 0], 1)
    for parent, children in zip(ragged.inner_nodes, ragged.groups, strict=True):
        np.testing.assert_allclose(p[:, children].sum(axis=1), p[:, parent])
    assert p[3, ragged.resolve("B > memory")] == pytest.approx(0.2)
    certain = Annotation.from_labels(labels, ragged)
    assert certain.labels["stop_label"].tolist()[3] == "memory"


def test_confidence_is_a_probability_a_cell(two_levels):
    for confidence in [[0.5], [0.5, 8.0], [0.5, np.nan]]:
        labels = pd.Series(["CD4", "B"], index=["a", "b"])
        with pytest.raises(ValueError, match=r"one probability .* per label, .* for 2 labels"):
            Annotation.from_labels(labels, two_levels, confidence=confidence)


def test_unknown_labels_are_named(two_levels):
    with pytest.raises(ValueError, match="Plasma"):
        Annotation.from_labels(pd.Series(["Plasma"], index=["a"]), two_levels)
    table = pd.DataFrame({"CD4": [0.6, 0.1], "Unknown": [0.4, 0.9]}, index=["a", "b"])
    with pytest.raises(ValueError, match=r"(?s)Classes must be .* use (.*)\.\n- 'Unknown'") as info:
        Annotation.from_probabilities(table, two_levels)
    names = {"Annotation": Annotation, "table": table, "taxonomy": two_levels}
    advice = re.search(r"use (.*)\.\n", str(info.value))
    result = eval(advice[1], names)
    assert result.labels["stop_label"].tolist() == ["CD4", "Unknown"]


def test_probabilities_of_another_tool_are_added_up(two_levels, annotated):
    own = annotated(two_levels)
    read = Annotation.from_probabilities(own.probabilities("cell_type"), two_levels)
    np.testing.assert_allclose(read.node_probabilities, own.node_probabilities, atol=1e-12)
    # CellTypist judges each class by itself: rows do not sum to 1.
    loose = Annotation.from_probabilities(3 * own.probabilities("cell_type"), two_levels)
    np.testing.assert_allclose(loose.node_probabilities, own.node_probabilities, atol=1e-12)
    # Parents beside their children say nothing that the children do not.
    every = Annotation.from_probabilities(own.probabilities(), two_levels)
    np.testing.assert_allclose(every.node_probabilities, own.node_probabilities, atol=1e-12)


def test_equal_halves_are_no_majority(two_levels):
    table = pd.DataFrame({"naive": [0.5], "memory": [0.5]}, index=["a"])
    result = Annotation.from_probabilities(table, two_levels)
    assert result.labels["stop_label"].tolist() == ["B"]


def test_words_for_no_label_are_labels_where_the_tree_has_them():
    labels = pd.Series(["Unassigned", "T", "unknown"], index=list("abc"))
    tree = Taxonomy.from_nested({"T": [], "Unassigned": []})
    found = Annotation.from_labels(labels, tree).labels["stop_label"]
    assert found.tolist() == ["Unassigned", "T", "Unknown"]


def test_a_label_goes_down_to_the_end_of_a_chain(ragged):
    labels = pd.Series(["MAIT", "CD8", "T", None], index=list("abcd"))
    result = Annotation.from_labels(labels, ragged)
    paths = [ragged.path_name(int(node)) for node in result.stop_nodes]
    assert paths == ["MAIT > MAIT", "T > CD8 > naive", "T", "root"]
    chain = Taxonomy.from_nested({"T": {"CD4": ["naive"]}})
    found = Annotation.from_labels(labels[-2:], chain).stop_depth
    assert found.tolist() == [3, 0]


def test_confidence_in_another_order_is_refused(ragged):
    labels = pd.Series(["T", "NK"], index=["a", "b"])
    confidence = pd.Series([0.9, 0.6], index=["b", "a"])
    with pytest.raises(ValueError, match=r"confidence\.loc\[obs_names\]"):
        Annotation.from_labels(labels, ragged, confidence=confidence)
    sure = Annotation.from_labels(labels, ragged, confidence=confidence.loc[labels.index])
    assert sure.confidence.tolist() == pytest.approx([0.6, 0.9])


@pytest.mark.parametrize("lost", ["taxonomy", "stop_depth"])
def test_incomplete_annotation_raises(ragged, annotated, lost):
    adata = cells()
    annotated(ragged).to_adata(adata)
    if lost == "taxonomy":  # as under the key of a refinement
        del adata.uns["hdi"]["taxonomy"]
    else:
        del adata.obs["hdi_stop_depth"]
    with pytest.raises(KeyError, match="no annotation under 'hdi': expected"):
        Annotation.from_adata(adata)


def test_words_for_no_label_that_no_tool_writes_are_named(two_levels):
    labels = pd.Series(["CD4", "nan", " NA ", "Unassigned", None], index=list("abcde"))
    with pytest.warns(LabelWarning, match=r"The labels: 'nan' .*' NA ' .*treated as unlabelled"):
        found = Annotation.from_labels(labels, two_levels)
    assert found.labels["stop_label"].tolist() == ["CD4", *["Unknown"] * 4]
