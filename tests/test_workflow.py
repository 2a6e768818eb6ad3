"""`annotate`: its decisions, its equivalence with the single steps, and that it reads no labels."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import hdeepinsight as hdi

LEVELS = ["lineage", "cell_type"]
OPEN = hdi.SCHDeepInsight.open


@pytest.fixture(scope="module")
def model(_synthetic_hierarchy: ad.AnnData) -> hdi.SCHDeepInsight:
    reference = _synthetic_hierarchy[:240].copy()
    hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=LEVELS)
    model = hdi.SCHDeepInsight(reference, layout="random")
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    model.train(12, batch_size=32, validation_size=0.2, **quiet)
    return model


@pytest.fixture
def query(_synthetic_hierarchy: ad.AnnData) -> ad.AnnData:
    return _synthetic_hierarchy[240:].copy()


@pytest.fixture(scope="module")
def result(model, _synthetic_hierarchy) -> hdi.Annotation:
    query = _synthetic_hierarchy[240:].copy()
    return hdi.annotate(query, model, batch_key="batch", refine="on")


def test_annotate_without_steps_equals_model_annotate(model, query):
    plain = model.annotate(query)
    result = hdi.annotate(query, model, adapt="off", refine="off")
    np.testing.assert_array_equal(result.node_probabilities, plain.node_probabilities)
    assert result.decisions == ()


def test_adaptation_alone_equals_load_query_data(model, query):
    adapted = hdi.SCHDeepInsight.load_query_data(query, model)
    adapted.train()
    result = hdi.annotate(query, model, refine="off")
    np.testing.assert_allclose(
        result.node_probabilities, adapted.annotate().node_probabilities, atol=1e-6
    )
    assert [d.step for d in result.decisions] == ["adapt"]
    assert result.decisions[0].applied == adapted.is_adapted


def test_refinement_goes_half_of_the_way(model, query):
    hdi.tl.expression_pca(query, key_added="X_pca")
    before = model.annotate(query)
    smooth = hdi.tl.refine(query, before).annotation(threshold=None).node_probabilities
    expected = (before.node_probabilities + smooth) / 2
    result = hdi.annotate(query, model, adapt="off", threshold=None)
    np.testing.assert_allclose(result.node_probabilities, expected, atol=1e-6)
    assert [(d.step, d.applied) for d in result.decisions] == [("refine", True)]


def test_another_batch_of_the_reference_is_neither_adapted_nor_refined(synthetic_hierarchy):
    cells, rng = synthetic_hierarchy, np.random.default_rng(0)
    factor = np.exp(rng.normal(0, 0.4, cells.n_vars))  # batch effect per gene
    counts = np.where((cells.obs["batch"] == "second").to_numpy()[:, None], factor, 1.0)
    cells.X = sparse.csr_matrix(rng.poisson(cells.X.toarray() * counts).astype(np.float32))
    reference, query = cells[:240].copy(), cells[240:].copy()
    hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=LEVELS, batch_key="batch")
    model = hdi.SCHDeepInsight(reference, layout="random")
    model.train(6, validation_size=0.2, enable_progress_bar=False, accelerator="cpu")
    result = hdi.annotate(query, model)
    steps = [(d.step, d.applied) for d in result.decisions]
    assert steps == [("adapt", False), ("refine", False)]
    assert all("batch" in d.reason for d in result.decisions)
    np.testing.assert_array_equal(
        result.node_probabilities, model.annotate(query).node_probabilities
    )
    asked = hdi.annotate(query, model, refine="on")
    assert [(d.step, d.applied) for d in asked.decisions] == [
        ("adapt", False),
        ("refine", True),
    ]


def test_decisions_list_each_step_with_reason_and_figures(result):
    assert [d.step for d in result.decisions] == ["adapt", "refine"]
    assert all(d.reason and d.figures for d in result.decisions)
    assert result.to_dict()["decisions"] == [str(d) for d in result.decisions]


def test_levels_stay_consistent_and_accuracy_is_kept(result, model, query):
    tree = model.taxonomy
    children = [result.node_probabilities[:, tree.children(v)].sum(1) for v in (0, *range(1, 4))]
    parents = [np.ones(len(result)), *(result.node_probabilities[:, v] for v in range(1, 4))]
    np.testing.assert_allclose(children, parents, atol=1e-6)
    plain = model.annotate(query, threshold=None).labels["cell_type"]
    right = [
        np.mean(each.astype(str) == query.obs["cell_type"].astype(str).to_numpy())
        for each in (plain, result.labels["cell_type"])
    ]
    assert right[1] >= right[0] - 0.02


def test_labels_of_the_query_are_not_read_and_nothing_is_written(model, query, result):
    query.obs[LEVELS] = query.obs[LEVELS].sample(frac=1, random_state=0).to_numpy()
    before = query.copy()
    again = hdi.annotate(query, model, batch_key="batch", refine="on")
    np.testing.assert_array_equal(again.node_probabilities, result.node_probabilities)
    assert (query.X != before.X).nnz == 0
    assert list(query.obsm) == list(query.uns) == []
    assert query.obs.equals(before.obs)


def test_refined_annotations_have_no_calibration(result):
    assert result.calibration is None
    with pytest.raises(ValueError, match="calibration"):
        result.label_sets(alpha=0.1)


def test_queries_of_few_cells_are_not_refined(model, query):
    result = hdi.annotate(query[:20].copy(), model, adapt="off")
    assert not result.decisions[0].applied
    assert "20 cells are too few" in result.decisions[0].reason
    plain = model.annotate(query[:20].copy())
    np.testing.assert_array_equal(result.node_probabilities, plain.node_probabilities)


def test_uninformative_graph_is_not_used(model, query, monkeypatch):
    rng = np.random.default_rng(0)

    def noise(cells):
        return rng.normal(size=(query.n_obs, 10))

    monkeypatch.setattr(hdi.tl, "expression_pca", noise)
    result = hdi.annotate(query, model, adapt="off")
    assert not result.decisions[0].applied
    asked = hdi.annotate(query, model, adapt="off", refine="on")
    assert asked.decisions[0].applied
    assert "as requested" in asked.decisions[0].reason


def test_counts_are_read_from_the_layer(model, query):
    layered = query.copy()
    layered.layers["raw"] = layered.X.copy()
    layered.X = layered.X * 0
    expected = hdi.annotate(query, model)
    result = hdi.annotate(layered, model, layer="raw")
    np.testing.assert_array_equal(result.node_probabilities, expected.node_probabilities)


def test_low_gene_coverage_warns_once(model, query):
    few = query[:, : query.n_vars // 4].copy()
    with pytest.warns(hdi.data.GeneCoverageWarning) as caught:
        hdi.annotate(few, model, adapt="on", refine="on")
    assert len(caught) == 1


def test_invalid_settings_raise(model, query):
    for options, error, message in [
        ({"adapt": "yes"}, ValueError, "adapt must be one of 'auto', 'on', 'off', got 'yes'"),
        ({"refine": True}, ValueError, "refine must be one of 'auto', 'on', 'off', got True"),
        ({"adapt": "off", "batch_key": "donor"}, KeyError, "no column 'donor'; it has .*batch"),
        ({"batch_key": "donor"}, KeyError, "donor"),
        ({"threshold": 0.2}, ValueError, "threshold must be"),
        ({"decoder": "best"}, ValueError, "decoder must be one of"),
        ({"reject": "on"}, ValueError, "reject must be one of 'auto', 'off'"),
        ({"vote": 3}, ValueError, "vote must be True, False, or the name of a column"),
        ({"types": ["CD4 X"]}, ValueError, "types: .*no node 'CD4 X'.*Similar names: 'CD4 T'"),
        ({"exclude": ["Plasma"]}, ValueError, "exclude: .*no node 'Plasma'"),
        (
            {"batch_key": "batch", "adapt": "off", "refine": "off"},
            ValueError,
            "batch_key has no effect with refine='off' and without adaptation",
        ),
        (
            {"markers": "blood", "reject": "off"},
            ValueError,
            "without a model and reject='off', because the marker genes replace",
        ),
    ]:
        with pytest.raises(error, match=message):
            hdi.annotate(query, model, **options)


def test_unexpected_arguments_raise_with_the_intended_one(query):
    with pytest.raises(TypeError, match=r"no argument 'majority_voting'.*Pass vote=True"):
        hdi.annotate(query, majority_voting=True)
    with pytest.raises(TypeError, match=r"no argument 'treshold'.*mean threshold="):
        hdi.annotate(query, treshold=0.9)
    with pytest.raises(TypeError, match=r"no argument 'batch_keys'.*mean batch_key="):
        hdi.annotate(query, batch_keys="donor")
    with pytest.raises(TypeError, match=r"no argument 'levels'.*in result\.labels"):
        hdi.annotate(query, levels=["lineage"])


def test_vote_within_the_clusters_of_a_column(model, query):
    plain = {"adapt": "off", "refine": "off"}
    query.obs["cluster"] = query.obs["cell_type"].astype(str)
    result = hdi.annotate(query, model, vote="cluster", **plain)
    expected = hdi.tl.vote(query, model.annotate(query), clusters="cluster")
    np.testing.assert_array_equal(result.node_probabilities, expected.node_probabilities)
    assert result.recipe["vote"]["clusters"] == "cluster"
    assert result.decisions[-1].step == "vote"
    assert f"{expected.changed.sum()} of {len(query)} labels changed" in str(result.decisions[-1])
    query.obs.loc[query.obs_names[:3], "cluster"] = None
    with pytest.raises(ValueError, match=r"a cluster for every cell, got .* 3 cells of"):
        hdi.annotate(query, model, vote="cluster", **plain)
    with pytest.raises(KeyError, match=r"no column 'leiden'.*Pass vote=True"):
        hdi.annotate(query, model, vote="leiden", **plain)


def test_vote_clusters_the_cells_itself(model, query):
    result = hdi.annotate(query, model, adapt="off", refine="off", vote=True)
    points = hdi.tl.expression_pca(query)
    expected = hdi.tl.vote(query, model.annotate(query), use_rep=points)
    np.testing.assert_allclose(result.node_probabilities, expected.node_probabilities, atol=1e-6)
    alike = ad.AnnData(query.X[np.zeros(60, dtype=int)], var=query.var)
    left = hdi.annotate(alike, model, adapt="off", refine="off", vote=True)
    assert not left.decisions[-1].applied
    np.testing.assert_array_equal(left.node_probabilities, model.annotate(alike).node_probabilities)


def test_types_are_restricted_before_labels_are_smoothed(model, query):
    result = hdi.annotate(query, model, types=["T", "Myeloid"], exclude=["DC"])
    assert not set(result.labels["lineage"]) - {"T", "Myeloid", "Unknown"}
    assert "DC" not in set(result.labels["cell_type"])
    assert "B" not in set(result.to_frame()["leaf"].str[0])
    assert result.recipe["types"] == ["T", "Myeloid"]
    plain = hdi.annotate(query, model, adapt="off", refine="off", exclude=["DC"])
    expected = model.annotate(query).restricted(exclude=["DC"])
    np.testing.assert_array_equal(plain.node_probabilities, expected.node_probabilities)


def test_query_that_does_not_resemble_the_reference_is_not_smoothed(model, query, monkeypatch):
    red = hdi.annotation.Verdict(light="red", sentences=("It is not blood.",))
    annotate = type(model).annotate

    def annotate_with_red_verdict(*args, **kwargs):
        return replace(annotate(*args, **kwargs), verdict=red)

    monkeypatch.setattr(type(model), "annotate", annotate_with_red_verdict)
    result = hdi.annotate(query, model, adapt="off")
    assert [(d.step, d.applied) for d in result.decisions] == [("refine", False)]
    assert "does not resemble the model's reference" in result.decisions[0].reason
    assert result.verdict == red
    assert hdi.annotate(query, model, adapt="off", refine="on").decisions[0].applied


def test_settings_are_checked_before_the_model_is_loaded(query, monkeypatch):
    monkeypatch.setattr("hdeepinsight._workflow.load_annotator", None)
    for options in ({"threshold": 0.2}, {"decoder": "best"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            hdi.annotate(query, "pbmc", **options)


def test_swapped_query_and_model_raise(model, query):
    for wrong in (None, query):
        with pytest.raises(TypeError, match="query first and the model second"):
            hdi.annotate(model, wrong)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"adapt": "off"}, 2),
        ({"adapt": "off", "refine": "off"}, 2),
        ({"adapt": "off", "vote": True}, 2),
        ({}, 3),
        ({"adapt": "on"}, 3),
    ],
)
@pytest.mark.parametrize("kind", ["memory", "h5ad"])
def test_the_matrix_is_scanned_once_and_read_at_most_three_times(
    model, query, tmp_path, monkeypatch, options, most, kind
):
    opened = []
    monkeypatch.setattr(
        hdi.SCHDeepInsight,
        "open",
        lambda *args, **kwargs: opened.append(OPEN(*args, **kwargs)) or opened[-1],
    )
    path = tmp_path / "query.h5ad"
    query.write_h5ad(path)
    result = hdi.annotate(path if kind == "h5ad" else query, model, **options)
    assert len(result) == query.n_obs
    assert len({id(one) for one in opened}) == 1, "a query is opened once"
    assert opened[0].n_scans == 1
    assert opened[0].n_passes <= most


def test_failing_refinement_is_skipped_with_its_reason(model, query, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("cannot cache function")

    monkeypatch.setattr("hdeepinsight.tl.expression_pca", fails)
    result = hdi.annotate(query, model, adapt="off")
    assert not result.decisions[-1].applied
    assert "cannot cache function" in result.decisions[-1].reason
    with pytest.raises(RuntimeError, match="cannot cache"):
        hdi.annotate(query, model, adapt="off", refine="on")


def test_failing_optional_steps_are_skipped_with_their_reason(model, query, monkeypatch):
    def fails(*args, **kwargs):
        raise MemoryError("Unable to allocate 5 GiB")

    monkeypatch.setattr(type(model), "load_query_data", fails)
    monkeypatch.setattr("hdeepinsight.tl.expression_pca", fails)
    result = hdi.annotate(query, model, vote=True)
    assert [decision.applied for decision in result.decisions] == [False] * 3
    assert all("Unable to allocate" in decision.reason for decision in result.decisions)
    with pytest.raises(MemoryError):
        hdi.annotate(query, model, adapt="on")


def test_markers_replace_the_model():
    query = hdi.datasets.pbmc3k()[::5].copy()
    scorer = hdi.tl.MarkerScorer("blood")
    plain = hdi.annotate(query, markers=scorer, refine="off")
    scored = hdi.tl.score_markers(query)
    np.testing.assert_array_equal(plain.node_probabilities, scored.node_probabilities)
    assert plain.decisions == ()
    assert plain.verdict is None
    refined = hdi.annotate(query, markers="blood", types=["T", "NK"])
    assert [(d.step, d.applied) for d in refined.decisions] == [("refine", True)]
    assert set(refined.labels["lineage"].unique()) <= {"T", "NK", "Unknown"}
    with pytest.raises(ValueError, match="without a model and adapt='on'"):
        hdi.annotate(query, "other", markers="blood", adapt="on")
