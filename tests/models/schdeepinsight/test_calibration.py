"""Calibration of a trained model, and its stored held-out cells."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hdeepinsight.annotation import calibrate
from hdeepinsight.models import ModelFolder


@pytest.fixture(params=["SCHDeepInsight", "SCLabelNet"])
def model(request, model):
    """Models that share all but their encoder."""
    return model if request.param == "SCHDeepInsight" else request.getfixturevalue("tokens_model")


def test_calibration_equals_that_of_the_annotated_held_out_cells(model):
    held_out = model.adata[model.validation_indices_]
    expected = calibrate(model.annotate(held_out), model.label_nodes(held_out))
    found = model.calibration
    assert len(found) == len(held_out)
    for name in ("node_scores", "leaf_scores"):
        np.testing.assert_allclose(
            np.sort(getattr(found, name)), np.sort(getattr(expected, name)), atol=1e-6
        )
    assert "held-out reference cells" in repr(found)


def test_annotations_contain_recipe_and_calibration(model, query):
    result = model.annotate(query)
    assert result.calibration is model.calibration
    assert result.novelty.index.equals(result.obs_names)
    flags = ["is_doublet", "is_ambient"]
    names = ["lineage_p_value", "type_p_value", "doublet_score", "ambient_score", *flags]
    assert result.novelty.columns.tolist() == names
    assert result.novelty[flags].isin([True, False]).all(axis=None)
    for name in ("type_p_value", "lineage_p_value", "ambient_score"):
        assert result.novelty[name].between(0, 1, inclusive="right").all()


def test_label_sets_of_cells_like_the_reference_hold_the_truth(model, labelled):
    sets = model.annotate(labelled).label_sets(0.1)
    truth = model.label_nodes(labelled)
    # 120 cells and about 60 calibration cells: three standard deviations below the promise.
    assert sets.coverage(truth) > 0.9 - 3 * np.sqrt(0.09 * (1 / 120 + 1 / 60))


def test_few_cells_like_the_reference_are_rejected(model, query):
    result = model.annotate(query)
    assert (result.rejected(0.05).stop_nodes == 0).mean() < 0.2
    assert (result.rejected(0.05, unknown="type").stop_nodes < 1).mean() < 0.2


def test_novelty_does_not_depend_on_batch_size_or_order(model, query):
    together = model.annotate(query).novelty.astype(float)
    shuffled = model.annotate(query[::-1], batch_size=17).novelty.iloc[::-1].astype(float)
    np.testing.assert_allclose(shuffled, together, rtol=1e-2, atol=1e-2)


def test_without_rejection_novelty_is_still_reported(model, query):
    kept, off = model.annotate(query), model.annotate(query, reject="off")
    assert off.supported_depth is None
    assert off.stop_reasons is None
    pd.testing.assert_frame_equal(off.novelty, kept.novelty)
    assert off.verdict == kept.verdict
    plain = replace(kept, supported_depth=None, stop_reasons=None)
    np.testing.assert_array_equal(off.stop_nodes, plain.stop_nodes)
    np.testing.assert_array_equal(off.leaf_nodes, kept.leaf_nodes)


def test_the_reference_gets_a_green_light_and_noise_a_red_one(model, query):
    seen = model.annotate(query).verdict
    assert seen.light == "green"
    assert seen.sentences[0] == "The query looks like the reference."
    rounded = query.copy()
    rounded.X = np.rint(3 * np.log1p(query.X.toarray()))
    doubted = model.annotate(rounded)
    assert doubted.verdict.light != "green"
    assert doubted.input_report.doubts[0] in doubted.verdict.sentences
    noise = query.copy()
    noise.X = sparse.csr_matrix(np.random.default_rng(0).permuted(query.X.toarray(), axis=1))
    result = model.annotate(noise)
    assert result.verdict.light == "red"
    assert result.verdict.figures["similarity"] < 0.5 < seen.figures["similarity"]
    assert (result.stop_nodes == 0).all()
    assert set(result.stop_reason) == {"the query does not look like the reference"}
    adapted = type(model).load_query_data(noise, model)
    adapted.train(max_steps=0)
    assert not adapted.is_adapted
    assert "does not look like the reference" in adapted.adaptation.reason


def test_a_large_query_is_assessed_by_an_even_sample(model, query):
    large = ad.concat([query] * 80, index_unique=" ")
    assert large.n_obs > 4096
    small, all_of_it = model.annotate(query), model.annotate(large)
    assert all_of_it.verdict.light == small.verdict.light
    figures = [r.verdict.figures["similarity"] for r in (small, all_of_it)]
    assert figures[0] == pytest.approx(figures[1], abs=0.1)


def test_a_saved_model_promises_the_same(model, query, tmp_path):
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", adata=False)
    first, second = model.annotate(query), loaded.annotate(query)
    assert (type(loaded), repr(loaded)) == (type(model), repr(model))
    np.testing.assert_allclose(first.node_probabilities, second.node_probabilities, atol=1e-6)
    np.testing.assert_array_equal(first.novelty, second.novelty)
    for kind in ("nodes", "leaves"):
        for groups in (None, "lineage"):
            sets = [r.label_sets(0.05, kind=kind, groups=groups) for r in (first, second)]
            np.testing.assert_array_equal(sets[0].contains, sets[1].contains)
            assert sets[0].thresholds.equals(sets[1].thresholds)


def test_a_model_saved_before_there_was_calibration_still_annotates(model, query, tmp_path):
    model.save(tmp_path / "model")
    folder = ModelFolder(tmp_path / "model")
    payload = folder.read()
    for name in ("calibration_", "bank_"):
        del payload["attr_dict"][name]
    folder.write(payload)
    old = type(model).load(tmp_path / "model", adata=False)
    result = old.annotate(query)
    assert result.novelty is None
    assert result.verdict.light == "yellow"
    assert "was not compared with the reference" in str(result.verdict)
    with pytest.raises(ValueError, match="no calibration"):
        result.label_sets()
    with pytest.raises(ValueError, match="no novelty"):
        result.rejected()


def test_without_held_out_cells_there_are_no_guarantees(reference, fit, query):
    model = fit(reference, train={"validation_size": 0, "max_epochs": 1})
    assert model.calibration is None
    assert model.bank_ is None
    assert model.annotate(query).calibration is None


def test_a_lineage_that_the_reference_lacks_is_strange(
    synthetic_hierarchy: ad.AnnData, fit, labelled
):
    left_out = synthetic_hierarchy.obs["lineage"].astype(str).iloc[0]
    cells = synthetic_hierarchy[:300]
    model = fit(cells[(cells.obs["lineage"] != left_out).to_numpy()].copy())
    score = -model.annotate(labelled).novelty["type_p_value"].to_numpy()
    new = (labelled.obs["lineage"] == left_out).to_numpy()
    larger = score[new][:, None] > score[~new][None]
    assert larger.mean() >= 0.9  # the area under the ROC curve
