"""Golden files of every schema load, newer and absurd ones are refused, and nothing else happens.

The golden files are written by ``tests/data/models/make.py``. The one of schema 1 is as the first
version of this package wrote it: without checksum, manifest, calibration and profiles. Those of
schema 2 are of this class, and of the class that adapted models had.
"""

import copy
import json
import os
import shutil
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from hdeepinsight import SCHDeepInsight
from hdeepinsight.models import ModelFileError, ModelFolder, load_model, model_class
from hdeepinsight.models._base._schema import SCHEMA_VERSION, migrate

GOLDEN = Path(__file__).parents[2] / "data" / "models"
FILES = ["schema_1_torch", "schema_2_torch", "schema_3"]
LATEST = FILES[-1]


def expected_of(name: str) -> dict:
    """Predictions of a golden file when it was written."""
    version = max(int(name.split("_")[1]), 2)
    return json.loads((GOLDEN / f"schema_{version}_expected.json").read_text())


EXPECTED = expected_of("schema_2_torch")


@pytest.fixture
def cells() -> ad.AnnData:
    counts = np.array(EXPECTED["counts"], dtype=np.float32)
    return ad.AnnData(counts, var=pd.DataFrame(index=EXPECTED["genes"]))


@pytest.fixture
def payload() -> dict:
    return ModelFolder(GOLDEN / LATEST).read()


@pytest.mark.parametrize("name", FILES)
def test_golden_files_load_and_predict_the_same(name, cells):
    model = SCHDeepInsight.load(GOLDEN / name)
    probabilities = model.predict_proba(cells).to_numpy()
    np.testing.assert_allclose(probabilities, expected_of(name)["probabilities"], atol=1e-5)
    assert model.recipe["n_cells"] == 120


def test_there_is_a_golden_file_of_every_schema():
    versions = {int(name.split("_")[1]) for name in FILES}
    assert versions == set(range(1, SCHEMA_VERSION + 1)), "run tests/data/models/make.py"
    sizes = [path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(sizes) < 250_000


def test_a_golden_adapted_model_predicts_the_same():
    expected = json.loads((GOLDEN / "schema_2_adapted_expected.json").read_text())
    counts = np.array(expected["counts"], dtype=np.float32)
    cells = ad.AnnData(counts, var=pd.DataFrame(index=expected["genes"]))
    cells.obs[expected["batch_key"]] = expected["donors"]
    model = load_model(GOLDEN / "schema_2_adapted")
    probabilities = model.predict_proba(cells).to_numpy()
    np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-5)


def test_an_adapted_model_of_its_own_class_becomes_a_model_with_an_adapter():
    expected = json.loads((GOLDEN / "schema_2_adapted_expected.json").read_text())
    attributes = ModelFolder(GOLDEN / "schema_2_adapted").read()["attr_dict"]
    moved = migrate(attributes)
    assert moved["schema_version_"] == SCHEMA_VERSION
    assert moved["registry_"]["model_name"] == "SCHDeepInsight"
    adapter = moved["adapter_"]
    assert adapter["report"]["decision"] == expected["decision"] == "adapted"
    assert adapter["batches"] == expected["batches"]
    assert adapter["batch_key"] == expected["batch_key"]
    assert adapter["shrinkage"] == expected["trust"]
    assert not {"adaptation_", "batches_", "batch_key_", "trust_"} & set(moved)
    assert moved["init_params_"] == attributes["init_params_"]
    assert migrate(moved) == moved


def test_a_model_that_was_never_adapted_has_no_adapter():
    attributes = ModelFolder(GOLDEN / "schema_2_torch").read()["attr_dict"]
    assert migrate(attributes)["adapter_"] is None
    unadapted = {"adaptation_": None, "batches_": ["query"], "batch_key_": None, "trust_": None}
    assert migrate(attributes | unadapted)["adapter_"] is None


def test_options_of_an_older_schema_can_be_moved():
    attributes = ModelFolder(GOLDEN / "schema_2_torch").read()["attr_dict"]
    before = copy.deepcopy(attributes["init_params_"])

    def into_a_config(options: dict) -> dict:
        return {"config": {"n_latent": options.pop("n_latent")}, **options}

    moved = migrate(attributes, into_a_config)
    assert moved["init_params_"]["non_kwargs"]["config"] == {"n_latent": 4}
    assert "n_latent" not in moved["init_params_"]["non_kwargs"]
    assert moved["init_params_"]["kwargs"] == before["kwargs"]
    assert attributes["init_params_"] == before
    assert migrate(moved, into_a_config) == moved, "a present model has no such options"


def test_the_class_is_found_by_its_name():
    assert model_class("SCHDeepInsight") is SCHDeepInsight
    for name in ("SCVI", "ModelFolder", "convert_model", "__all__", ""):
        with pytest.raises(KeyError, match=f"one of .*SCHDeepInsight.*, got '{name}'"):
            model_class(name)
    assert type(load_model(GOLDEN / LATEST)) is SCHDeepInsight


@pytest.mark.parametrize("name", FILES[1:])
def test_the_present_schema_has_all_capabilities(name, cells):
    result = SCHDeepInsight.load(GOLDEN / name).annotate(cells)
    if "schema_3" in name:  # older ones keep no held-out cells
        rejected = result.rejected().labels.astype(str).to_numpy().tolist()
        assert rejected == expected_of(name)["rejected"]
    assert result.label_sets().contains.any(axis=1).all()


def test_a_model_without_calibration_has_no_label_sets(cells):
    model = SCHDeepInsight.load(GOLDEN / "schema_1_torch")
    with pytest.raises(ValueError, match="no calibration"):
        model.annotate(cells).label_sets()


def test_an_older_model_is_saved_in_the_present_schema(tmp_path, cells):
    SCHDeepInsight.load(GOLDEN / "schema_1_torch").save(tmp_path)
    read = ModelFolder(tmp_path).read()["attr_dict"]
    assert read["schema_version_"] == SCHEMA_VERSION
    assert read["calibration_"] is None
    probabilities = SCHDeepInsight.load(tmp_path).predict_proba(cells).to_numpy()
    np.testing.assert_allclose(probabilities, EXPECTED["probabilities"], atol=1e-5)


def test_newer_schemas_advise_an_update(payload, tmp_path_factory):
    for version in [SCHEMA_VERSION + 1, 10**30, -1, "2", 2.0, True, None]:
        tmp_path = tmp_path_factory.mktemp("case")
        payload["attr_dict"]["schema_version_"] = version
        ModelFolder(tmp_path).write(payload)
        with pytest.raises(ModelFileError, match="Update hdeepinsight"):
            SCHDeepInsight.load(tmp_path)


def test_descriptions_of_impossible_models(payload, tmp_path_factory):
    for keys, value in [
        (["init_params_", "non_kwargs", "n_latent"], 10**12),
        (["init_params_", "non_kwargs", "n_latent"], "many"),
        (["init_params_", "non_kwargs", "layout", "side"], 10**9),
        (["init_params_", "non_kwargs", "layout"], "tsne"),
        (["init_params_", "non_kwargs", "layout", "pixel"], [10**12] * 16),
        (["init_params_", "non_kwargs", "backbone"], "os.system"),
        (["init_params_", "non_kwargs", "evil"], 1),
        (["init_params_", "non_kwargs"], []),
        (["init_params_"], None),
        (["registry_", "setup_args"], []),
        (["history_"], 3),
        (["calibration_"], {"a": 1}),
        (["bank_"], [1]),
        (["profiles_"], {"a": 1}),
        (["init_params_", "non_kwargs", "taxonomy"], []),
        (["init_params_", "non_kwargs", "taxonomy", "nodes"], [{}]),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        *path, last = keys
        broken = copy.deepcopy(payload)
        place = broken["attr_dict"]
        for key in path:
            place = place[key]
        place[last] = value
        ModelFolder(tmp_path).write(broken)
        began = time.perf_counter()
        with pytest.raises(ModelFileError, match="damaged"):
            SCHDeepInsight.load(tmp_path)
        assert time.perf_counter() - began < 5


@pytest.mark.parametrize("n_nodes", [10**4, 10**5])
def test_a_taxonomy_of_absurd_depth(payload, tmp_path, n_nodes):
    nodes = [{"name": f"n{i}", "parent": i} for i in range(n_nodes)]
    tree = payload["attr_dict"]["init_params_"]["non_kwargs"]["taxonomy"]
    tree["nodes"] = nodes
    tree["level_names"] = [f"level{i}" for i in range(n_nodes)]
    ModelFolder(tmp_path).write(payload)
    began = time.perf_counter()
    with pytest.raises(ModelFileError, match="damaged"):
        SCHDeepInsight.load(tmp_path)
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("seed", range(3))
def test_any_missing_or_foreign_value_is_refused_or_harmless(payload, tmp_path, seed):
    """Random changes of a real payload, with a correct digest: no error of another kind."""
    rng = np.random.default_rng(seed)
    strange = [None, -1, 10**15, "x", [], {}, True, float("nan"), [1, "a"], {"a": 1}]
    for _ in range(15):
        spoiled = copy.deepcopy(payload)
        place = spoiled["attr_dict"]
        while True:
            key = list(place)[rng.integers(len(place))]
            if isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
                place = place[key]
                continue
            break
        if rng.random() < 0.3:
            del place[key]
        else:
            place[key] = strange[rng.integers(len(strange))]
        ModelFolder(tmp_path).write(spoiled)
        try:
            SCHDeepInsight.load(tmp_path)
        except ModelFileError:
            continue


def test_a_file_may_not_name_any_method(payload, tmp_path, synthetic_hierarchy):
    payload["attr_dict"]["registry_"]["setup_method_name"] = "save"
    ModelFolder(tmp_path).write(payload)
    with pytest.raises(ModelFileError, match="set-up method 'save'"):
        SCHDeepInsight.load(tmp_path, synthetic_hierarchy)


def test_a_reference_that_is_a_pipe_is_refused_at_once(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    (tmp_path / "model" / "adata.h5ad").unlink()
    os.mkfifo(tmp_path / "model" / "adata.h5ad")
    began = time.perf_counter()
    for listed in (True, False):
        if not listed:
            (tmp_path / "model" / "manifest.json").unlink()
        with pytest.raises(ModelFileError, match=r"adata\.h5ad.*not a regular file"):
            SCHDeepInsight.load(tmp_path / "model")
    assert SCHDeepInsight.load(tmp_path / "model", adata=False).adata is None
    assert time.perf_counter() - began < 20


def test_the_reference_is_checked_too(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    path = tmp_path / "model" / "adata.h5ad"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(ModelFileError, match=r"adata\.h5ad is damaged.*not what manifest"):
        SCHDeepInsight.load(tmp_path / "model")
    assert SCHDeepInsight.load(tmp_path / "model", adata=False).adata is None


def test_a_copy_without_its_manifest_is_still_guarded(tmp_path):
    """A folder with ``model.pt`` alone, as downloaded by the scvi-tools hub."""
    shutil.copy(GOLDEN / LATEST / "model.pt", tmp_path)
    SCHDeepInsight.load(tmp_path)
    body = bytearray((tmp_path / "model.pt").read_bytes())
    body[len(body) // 2] ^= 1
    (tmp_path / "model.pt").write_bytes(body)
    with pytest.raises(ModelFileError, match="checksum"):
        SCHDeepInsight.load(tmp_path)
