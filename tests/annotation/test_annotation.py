"""`Annotation`: labels, confidence and tables."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from hdeepinsight.annotation import Annotation, Decision, Verdict
from hdeepinsight.taxonomy import Taxonomy

SETTINGS = [
    {"threshold": None, "decoder": "greedy"},
    {"threshold": 0.5, "decoder": "joint"},
    {"threshold": 0.8, "decoder": "greedy"},
]
settings_of = pytest.mark.parametrize("settings", SETTINGS, ids=str)


@settings_of
def test_every_level_lies_on_the_path_to_the_stop_label(taxonomy, annotated, settings):
    limit = np.arange(60) % (taxonomy.max_depth + 2)
    result = annotated(taxonomy, supported_depth=limit, **settings)
    labels = result.labels
    holes = result.to_frame(fill=False)[labels.columns]
    assert labels.columns.tolist() == [*taxonomy.level_names, "stop_label"]
    assert all(isinstance(dtype, pd.CategoricalDtype) for dtype in labels.dtypes)
    for cell in range(len(result)):
        leaf, stop = int(result.leaf_nodes[cell]), int(result.stop_nodes[cell])
        path = taxonomy.path(stop) or ("Unknown",)
        depth = len(path) if stop else taxonomy.max_depth
        filled = [*path, *[path[-1]] * taxonomy.max_depth][: taxonomy.max_depth]
        assert taxonomy.depth[stop] <= limit[cell]
        assert labels.iloc[cell].tolist() == [*filled, path[-1]]
        row = holes.iloc[cell].astype(object)
        missing = [None] * (taxonomy.max_depth - depth)
        assert row.where(row.notna(), None).tolist() == [*filled[:depth], *missing, path[-1]]
        assert taxonomy.path(leaf)[: taxonomy.depth[stop]] == taxonomy.path(stop)
        assert result.to_frame()["leaf"].iloc[cell] == taxonomy.label(leaf)


def test_a_label_stops_at_the_threshold_of_its_node_or_of_all(ragged, annotated):
    own = np.full(ragged.n_nodes, 0.5)
    own[[ragged.resolve("T > CD4"), *ragged.leaves]] = 0.95
    for threshold in (0.5, 0.8, None):
        result = annotated(ragged, n_cells=200, threshold=threshold, node_thresholds=own)
        free = annotated(ragged, n_cells=200, threshold=threshold)
        at = np.arange(200), result.stop_nodes
        if threshold is None:
            np.testing.assert_array_equal(result.stop_nodes, free.stop_nodes)
            continue
        passing = result.node_probabilities[at] >= np.maximum(own, threshold)[result.stop_nodes]
        assert passing.all()
        assert (ragged.depth[result.stop_nodes] <= ragged.depth[free.stop_nodes]).all()
        assert (result.stop_nodes != free.stop_nodes).any()


def test_stopped_cells_have_a_reason(ragged, annotated):
    given = np.array(["few counts", "", "unlike all types"] * 20, dtype=object)
    limit = np.array([1, 3, 0] * 20)
    result = annotated(ragged, threshold=0.8, supported_depth=limit, stop_reasons=given)
    free = annotated(ragged, threshold=0.8)
    for cell, reason in enumerate(result.stop_reason):
        stop = int(result.stop_nodes[cell])
        improbable = ragged.depth[free.stop_nodes[cell]] < limit[cell]
        if ragged.n_children[stop] == 0:
            assert reason == ""
        else:
            expected = "no child type reaches the threshold" if improbable else given[cell]
            assert reason == expected
    assert set(result.stop_reason) == {
        "",
        "few counts",
        "unlike all types",
        "no child type reaches the threshold",
    }


def test_arrays_of_other_cells_or_nodes_are_refused(two_levels, annotated):
    for name in ["supported_depth", "stop_reasons", "node_thresholds"]:
        with pytest.raises(ValueError, match=rf"{name} must be an array of shape"):
            annotated(two_levels, **{name: np.zeros(3)})


@settings_of
def test_confidence_margin_and_depth_equal_plain_loops(taxonomy, annotated, settings):
    result = annotated(taxonomy, **settings)
    for cell, p in enumerate(result.node_probabilities):
        leaf, stop = result.leaf_nodes[cell], result.stop_nodes[cell]
        others = [p[v] for v in taxonomy.leaves if v != leaf]
        assert result.confidence.iloc[cell] == p[leaf if stop == 0 else stop]
        assert result.margin.iloc[cell] == pytest.approx(p[leaf] - max(others, default=0.0))
        assert result.stop_depth.iloc[cell] == taxonomy.depth[stop]
    for series in (result.confidence, result.margin, result.stop_depth):
        assert series.index.equals(result.obs_names)


def test_confidence_reaches_the_threshold_wherever_a_path_was_found(ragged, annotated):
    result = annotated(ragged, threshold=0.8)
    found = result.stop_depth > 0
    assert 0 < found.sum() < len(result)
    assert (result.confidence[found] >= 0.8).all()
    assert (result.confidence[~found] < 0.8).all()


def test_the_margin_of_the_joint_leaf_is_never_negative(two_levels, annotated):
    assert (annotated(two_levels, threshold=None).margin >= 0).all()
    spread = annotated(two_levels, n_cells=400, threshold=None, decoder="greedy").margin
    assert (spread < 0).any()  # greedy may leave the best leaf aside, and says so


def test_categories_follow_the_taxonomy_and_hold_what_occurs(two_levels, annotated):
    result = annotated(two_levels, threshold=0.6)
    assert result.labels["lineage"].cat.categories.tolist() == ["Unknown", "T", "B"]
    types = ["Unknown", "T", "B", "CD4", "CD8", "gd", "naive", "memory"]
    assert result.labels["cell_type"].cat.categories.tolist() == types
    stops = result.labels["stop_label"]
    assert stops.cat.categories[0] == "Unknown"
    assert set(stops.cat.categories) == set(stops)


def test_probabilities_of_all_nodes_are_named_by_paths(ragged, annotated):
    result = annotated(ragged)
    table = result.probabilities()
    assert table.columns.tolist() == [ragged.path_name(v) for v in range(1, ragged.n_nodes)]
    assert table.columns.is_unique
    np.testing.assert_array_equal(table.to_numpy(), result.node_probabilities[:, 1:])
    children = table[["T > CD4", "T > CD8", "T > gd"]].sum(axis=1)
    np.testing.assert_allclose(children, table["T"], atol=1e-12)


def test_probabilities_of_every_level_sum_to_one(taxonomy, annotated):
    result = annotated(taxonomy)
    for level, name in enumerate(taxonomy.level_names, start=1):
        table = result.probabilities(level)
        np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
        assert table.columns.is_unique
        pd.testing.assert_frame_equal(table, result.probabilities(name))


def test_columns_of_a_level_are_labels_where_these_are_distinct(ragged, annotated):
    result = annotated(ragged)
    assert result.probabilities(1).columns.tolist() == ["T", "MAIT", "B", "NK"]
    second = result.probabilities(2).columns.tolist()
    assert sorted(second) == sorted(["NK", "CD4", "CD8", "gd", "MAIT", "naive", "memory"])
    # "naive" stands for three leaves at the third level.
    third = result.probabilities(3).columns
    assert {"T > CD4 > naive", "T > CD8 > naive", "B > naive", "NK"} <= set(third)


def test_levels_that_do_not_exist_are_refused(two_levels, annotated):
    for level in [0, 3, -1, "organ"]:
        for call in ["probabilities", "label_column", "summary"]:
            with pytest.raises(
                ValueError, match=r"level.*(Levels are|one of) \['lineage', 'cell_type'\]"
            ):
                getattr(annotated(two_levels), call)(level)


def test_label_column_picks_a_column(two_levels, annotated):
    result = annotated(two_levels)
    for level in (2, "cell_type"):
        pd.testing.assert_series_equal(result.label_column(level), result.labels["cell_type"])
    pd.testing.assert_series_equal(result.label_column(), result.labels["stop_label"])


def test_summary_counts_the_cells(two_levels, annotated):
    for level in [None, 1, "cell_type"]:
        result = annotated(two_levels)
        summary = result.summary(level)
        labels = np.asarray(result.label_column(level).astype(str))
        assert set(summary.index) == set(labels)
        assert summary["n_cells"].sum() == len(result)
        assert summary["n_cells"].is_monotonic_decreasing
        for label, row in summary.iterrows():
            here = labels == label
            assert row["n_cells"] == here.sum()
            assert row["share"] == pytest.approx(here.mean())
            assert row["confidence"] == pytest.approx(result.confidence[here].mean())


def test_frame_contains_all_columns(ragged, annotated):
    result = annotated(ragged)
    frame = result.to_frame()
    added = ["stop_label", "leaf", "confidence", "margin", "stop_depth", "stop_reason"]
    assert frame.columns.tolist() == [*ragged.level_names, *added]
    pd.testing.assert_frame_equal(frame[result.labels.columns], result.labels)
    for name in added[2:]:
        pd.testing.assert_series_equal(frame[name], getattr(result, name), check_dtype=False)


def test_details_of_every_level_equal_plain_loops(ragged, annotated):
    result = annotated(ragged, threshold=0.6)
    frame = result.to_frame(details=True)
    assert frame.columns[: -3 * ragged.max_depth].tolist() == result.to_frame().columns.tolist()
    for depth, level in enumerate(ragged.level_names, start=1):
        candidates = [
            node
            for node in range(1, ragged.n_nodes)
            if ragged.depth[node] == depth or (node in ragged.leaves and ragged.depth[node] < depth)
        ]
        for cell, p in enumerate(result.node_probabilities):
            path = [*ragged.ancestors(int(result.leaf_nodes[cell])).tolist()]
            path.append(int(result.leaf_nodes[cell]))
            own = next(node for node in path if node in candidates)
            second = max((node for node in candidates if node != own), key=lambda node: p[node])
            row = frame.iloc[cell]
            assert row[f"{level}_runner_up"] == ragged.label(second)
            assert row[f"{level}_runner_up_confidence"] == p[second]
            node = int(result.level_nodes(level)[cell])
            assert row[f"{level}_confidence"] == p[node if node else own]


def test_a_cell_without_counts_is_named_in_no_column(ragged, annotated):
    depth, reasons = np.full(60, 9), np.full(60, "", dtype=object)
    depth[7], reasons[7] = 0, "no counts"
    result = annotated(ragged, supported_depth=depth, stop_reasons=reasons)
    frame = result.to_frame(details=True)
    labels = frame.select_dtypes("category").iloc[7]
    assert set(labels) == {"Unknown"}
    assert frame["stop_reason"].iloc[7] == "no counts"


def test_a_restricted_annotation_has_the_probabilities_of_what_remains(ragged, annotated):
    result = annotated(ragged)
    sorted_cells = result.restricted(["T"], exclude=["CD8"])
    leaves = [
        node
        for node in ragged.leaves.tolist()
        if "T" in ragged.path(node) and "CD8" not in ragged.path(node)
    ]
    p = result.node_probabilities[:, leaves]
    expected = p / p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sorted_cells.node_probabilities[:, leaves], expected)
    assert (sorted_cells.labels["level_1"] == "T").all()
    assert set(sorted_cells.leaf_nodes) <= set(leaves)
    assert sorted_cells.recipe == {"types": ["T"], "exclude": ["CD8"]}
    with pytest.raises(ValueError, match="has no calibration"):
        sorted_cells.label_sets()
    with pytest.raises(
        ValueError, match=r"types: The taxonomy has no node 'CD9'.*Similar names: .*CD8"
    ):
        result.restricted(["CD9"])
    with pytest.raises(ValueError, match=r"at least one type.*types=\['CD4'\] .*Omit types"):
        result.restricted(["CD4"], exclude=["T"])


def test_impossible_types_are_equally_likely():
    p = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    result = Annotation.from_labels(pd.Series(["B"], index=["a"]), p)
    assert result.restricted(["T"]).node_probabilities[0].tolist() == [1, 1, 0, 0.5, 0.5]


def test_str_contains_verdict_and_decisions(two_levels, annotated):
    verdict = Verdict(light="red", sentences=("It is not blood.", "No lineage fits 99 %."))
    decision = Decision(step="adapt", applied=True, reason="1 of 1 labels changed")
    shown = str(annotated(two_levels, n_cells=1, verdict=verdict, decisions=(decision,)))
    assert shown.startswith("Annotation of 1 cell over 5 types at 2 levels; ")
    assert shown.splitlines()[1:] == [
        "RED: It is not blood.",
        "  No lineage fits 99 %.",
        "Model adapted to the query: 1 of 1 labels changed.",
    ]


def test_csv_gives_the_frame_back(tmp_path, ragged, annotated):
    result = annotated(ragged)
    result.to_csv(tmp_path / "labels.csv")
    read = pd.read_csv(tmp_path / "labels.csv", index_col="cell", dtype=str)
    frame = result.to_frame()
    assert read.index.tolist() == result.obs_names.tolist()
    assert read.columns.tolist() == frame.columns.tolist()
    for name in result.labels:
        written = frame[name].astype(object)
        assert read[name].astype(object).fillna("-").tolist() == written.fillna("-").tolist()
    for name in ("confidence", "margin", "stop_depth"):
        assert [float(text) for text in read[name]] == frame[name].tolist()


def test_repeated_cell_names_stay_rows_of_their_own(two_levels, probabilities):
    names = pd.Index(["a", "b", "a", "a"])
    p = probabilities(two_levels, 4)
    result = Annotation(taxonomy=two_levels, obs_names=names, node_probabilities=p)
    frame = result.to_frame()
    assert frame.index.tolist() == ["a", "b", "a", "a"]
    np.testing.assert_array_equal(frame["confidence"], result.confidence)


def test_no_cells_give_empty_tables(taxonomy, annotated):
    result = annotated(taxonomy, n_cells=0)
    assert result.to_frame().shape == (0, taxonomy.max_depth + 6)
    assert result.probabilities().shape == (0, taxonomy.n_edges)
    assert result.probabilities(1).shape == (0, len(taxonomy.groups[0]))
    assert result.summary().empty
    assert "0 cells" in repr(result)


def test_repr_tells_the_share_that_stops_early(two_levels, annotated):
    result = annotated(two_levels, n_cells=200, threshold=0.9)
    above = np.mean([two_levels.n_children[node] > 0 for node in result.stop_nodes])
    assert 0 < above < 1
    assert repr(result) == (
        f"Annotation of 200 cells over 5 types at 2 levels; {above:.1%} stop above a type "
        "(threshold 0.9)"
    )


def test_a_result_is_frozen(two_levels, annotated):
    result = annotated(two_levels)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.threshold = 0.9


def test_probabilities_of_another_shape_are_refused(two_levels):
    for shape in [(3, 8), (4, 7), (4,)]:
        with pytest.raises(ValueError, match=r"an array of shape \(4, 8\), got .*one per node"):
            Annotation(
                taxonomy=two_levels, obs_names=list("abcd"), node_probabilities=np.ones(shape)
            )


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_refused(two_levels, probabilities, broken):
    p = probabilities(two_levels, 4)
    p[2, 3] = broken
    with pytest.raises(
        ValueError, match=r"1 of 4 cells .* not numbers from 0 to 1, such as NaN.*Check"
    ):
        Annotation(taxonomy=two_levels, obs_names=list("abcd"), node_probabilities=p)


def test_level_names_that_are_taken_are_refused():
    for name in ["stop_label", "confidence", "stop_depth"]:
        taxonomy = Taxonomy.from_nested({"T": [], "B": []}, level_names=(name,))
        with pytest.raises(ValueError, match=rf"levels named \['{name}'\].*Rename"):
            Annotation(taxonomy=taxonomy, obs_names=["a"], node_probabilities=np.ones((1, 3)))


def test_probabilities_outside_their_range_are_refused(two_levels, probabilities):
    for value in [1.5, -0.5, 95.0]:
        p = probabilities(two_levels, 4)
        p[1, 2] = value
        with pytest.raises(
            ValueError, match=r"1 of 4 cells .* not numbers from 0 to 1.*not logits"
        ):
            Annotation(taxonomy=two_levels, obs_names=list("abcd"), node_probabilities=p)
        half = probabilities(two_levels, 4).astype(np.float16)  # rounds up to 1.0005, and may
        Annotation(taxonomy=two_levels, obs_names=list("abcd"), node_probabilities=half * 1.0005)


def test_type_called_unknown_raises(probabilities):
    tree = Taxonomy.from_nested({"T": ["CD4", "Unknown"], "B": []})
    with pytest.raises(ValueError, match=r"type named 'Unknown'.*Rename the type"):
        Annotation(taxonomy=tree, obs_names=["a"], node_probabilities=probabilities(tree, 1))


def test_missing_held_out_cells_are_stated(two_levels, annotated):
    silent = annotated(two_levels, recipe={"n_held_out": 0})
    assert silent.calibration_note in repr(silent)
    assert "not calibrated: no cells were held out in training" in repr(silent)
    with pytest.raises(ValueError, match=r"no cells were held out in training.*Annotate with"):
        silent.label_sets()
    for recipe in ({}, {"n_held_out": 20}):
        assert annotated(two_levels, recipe=recipe).calibration_note == ""
