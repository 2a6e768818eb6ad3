"""The lightweight annotator gives the same results as the full model, bit by bit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi
from hdeepinsight import SCHDeepInsight
from hdeepinsight.models import Annotator, load_model

GOLDEN = Path(__file__).parents[1] / "data" / "models"


def assert_the_same(found, expected):
    np.testing.assert_array_equal(found.node_probabilities, expected.node_probabilities)
    pd.testing.assert_frame_equal(found.to_frame(details=True), expected.to_frame(details=True))
    assert found.recipe == expected.recipe
    assert str(found.verdict) == str(expected.verdict)
    assert found.calibration_note == expected.calibration_note
    assert found.decisions == expected.decisions


def both(model, folder) -> tuple[Annotator, SCHDeepInsight]:
    model.save(folder)
    annotator = hdi.hub.load_annotator(folder)
    assert type(annotator) is Annotator
    return annotator, load_model(folder)


@pytest.mark.filterwarnings("ignore:.* are read without adaptation")
@pytest.mark.parametrize(
    "name", ["schema_1_torch", "schema_2_torch", "schema_2_adapted", "schema_3"]
)
def test_files_of_every_schema_are_read(name, query):
    annotator, model = Annotator.from_folder(GOLDEN / name), load_model(GOLDEN / name)
    assert annotator.is_adapted == model.is_adapted
    rng = np.random.default_rng(0)
    cells = query[:, : len(model.genes)].copy()
    cells.var_names, cells.X = list(model.genes), rng.poisson(1.0, cells.shape).astype(np.float32)
    assert_the_same(annotator.annotate(cells), model.annotate(cells))


def test_it_annotates_scores_and_streams_as_the_model_does(model, query, labelled, tmp_path):
    annotator, whole = both(model, tmp_path)
    assert_the_same(annotator.annotate(query), whole.annotate(query))
    how = {"refine": "on", "adapt": "off", "types": ["T"], "threshold": 0.7}
    assert_the_same(hdi.annotate(query, tmp_path, **how), hdi.annotate(query, whole, **how))
    assert annotator.evaluate(labelled).to_dict() == whole.evaluate(labelled).to_dict()
    blocks = zip(annotator.annotate_blocks(query), whole.annotate_blocks(query), strict=True)
    for found, expected in blocks:
        assert_the_same(found, expected)
    for method in ("predict_proba", "get_latent_representation"):
        np.testing.assert_array_equal(*(getattr(m, method)(query) for m in (annotator, whole)))


def test_several_members_disagree_as_before(fit, reference, query, tmp_path):
    model = fit(reference, n_members=2, n_latent=16, train={"max_epochs": 2})
    annotator, whole = both(model, tmp_path)
    found = annotator.annotate(query)
    assert found.disagreement is not None
    assert_the_same(found, whole.annotate(query))


def test_it_adapts_as_the_model_does_and_reads_adapted_models(model, query, tmp_path):
    query.obs["donor"] = np.where(np.arange(query.n_obs) % 2, "a", "b")
    _, whole = both(model, tmp_path / "reference")
    how = {"adapt": "on", "refine": "off", "batch_key": "donor"}
    expected = hdi.annotate(query, whole, **how)
    assert expected.decisions[0].applied
    assert_the_same(hdi.annotate(query, tmp_path / "reference", **how), expected)
    adapted = SCHDeepInsight.load_query_data(query, whole, batch_key="donor")
    adapted.train(plan_kwargs={"guard": False})
    annotator, whole = both(adapted, tmp_path / "adapted")
    assert annotator.is_adapted
    assert_the_same(annotator.annotate(query), whole.annotate(query))


def test_unsupported_methods_exist_on_the_model(reference, tmp_path):
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    SCHDeepInsight(reference, layout="random", n_latent=16).save(tmp_path)
    assert Annotator.from_folder(tmp_path) is None  # not trained
    assert type(hdi.hub.load_model(tmp_path)) is SCHDeepInsight
    with pytest.raises(ValueError, match="must be trained, got an untrained SCHDeepInsight"):
        hdi.hub.load_annotator(tmp_path)
    with pytest.raises(ValueError, match="no reference attached"):
        hdi.hub.load_annotator("pbmc").annotate()
