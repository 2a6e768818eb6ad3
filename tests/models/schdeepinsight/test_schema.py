"""Golden files of every schema load, newer and absurd ones are refused, and nothing else happens.

The golden files are written by ``tests/data/models/make.py``; the one of schema 1 is as the first
version of this package wrote it: without seal, manifest, calibration and profiles.
"""

import copy
import json
import shutil
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from hdeepinsight import SCHDeepInsight
from hdeepinsight.models import ModelFileError
from hdeepinsight.models._model_file import ModelFolder, read_model, write_model
from hdeepinsight.models.schdeepinsight._schema import SCHEMA_VERSION

GOLDEN = Path(__file__).parents[2] / "data" / "models"
EXPECTED = json.loads((GOLDEN / "schema_2_expected.json").read_text())
FILES = ["schema_1_torch", "schema_2_torch", "schema_2_safetensors"]


@pytest.fixture
def cells() -> ad.AnnData:
    counts = np.array(EXPECTED["counts"], dtype=np.float32)
    return ad.AnnData(counts, var=pd.DataFrame(index=EXPECTED["genes"]))


@pytest.fixture
def payload() -> dict:
    return read_model(ModelFolder(GOLDEN / "schema_2_torch"))


@pytest.mark.parametrize("name", FILES)
def test_golden_files_load_and_say_what_they_said(name, cells):
    model = SCHDeepInsight.load(GOLDEN / name)
    probabilities = model.predict_proba(cells).to_numpy()
    np.testing.assert_allclose(probabilities, EXPECTED["probabilities"], atol=1e-5)
    assert (model.missing_capabilities == ()) == (name != "schema_1_torch")
    assert model.recipe["n_cells"] == 120


def test_there_is_a_golden_file_of_every_schema():
    for version in range(1, SCHEMA_VERSION + 1):
        assert f"schema_{version}_torch" in FILES, "run tests/data/models/make.py"
    sizes = [path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(sizes) < 200_000


@pytest.mark.parametrize("name", FILES[1:])
def test_the_present_schema_has_all_capabilities(name, cells):
    result = SCHDeepInsight.load(GOLDEN / name).annotate(cells)
    assert result.rejected().labels.astype(str).to_numpy().tolist() == EXPECTED["rejected"]
    assert result.label_sets().contains.any(axis=1).all()


def test_what_an_older_model_lacks_is_named(caplog, cells):
    model = SCHDeepInsight.load(GOLDEN / "schema_1_torch")
    assert [what.split(" ")[0] for what in model.missing_capabilities] == [
        "conformal",
        "novelty",
        "adapting",
    ]
    assert "saved by an older release and lacks conformal label sets" in caplog.text
    with pytest.raises(ValueError, match="no calibration"):
        model.annotate(cells).label_sets()


def test_an_older_model_is_saved_in_the_present_schema(tmp_path, cells):
    SCHDeepInsight.load(GOLDEN / "schema_1_torch").save(tmp_path)
    read = read_model(ModelFolder(tmp_path))["attr_dict"]
    assert read["schema_version_"] == SCHEMA_VERSION
    assert read["calibration_"] is None
    probabilities = SCHDeepInsight.load(tmp_path).predict_proba(cells).to_numpy()
    np.testing.assert_allclose(probabilities, EXPECTED["probabilities"], atol=1e-5)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 10**30, -1, "2", 2.0, True, None])
def test_unknown_schemas_ask_for_an_update(payload, tmp_path, version):
    payload["attr_dict"]["schema_version_"] = version
    write_model(ModelFolder(tmp_path), payload)
    with pytest.raises(ModelFileError, match="Update hdeepinsight"):
        SCHDeepInsight.load(tmp_path)


def test_safetensors_and_torch_are_the_same_model(cells):
    first, second = (SCHDeepInsight.load(GOLDEN / name) for name in FILES[1:])
    weights = first.module.state_dict(), second.module.state_dict()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    pd.testing.assert_frame_equal(first.predict_proba(cells), second.predict_proba(cells))
    assert first.recipe == second.recipe
    registries = [SCHDeepInsight.load_registry(GOLDEN / name) for name in FILES[1:]]
    assert registries[0] == registries[1]


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_the_format_is_found_and_replaced(tmp_path, kind):
    model = SCHDeepInsight.load(GOLDEN / "schema_2_torch")
    model.save(tmp_path, format=kind)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(tmp_path)
    model.save(tmp_path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "model.pt"]
    with pytest.raises(ValueError, match="'torch' or 'safetensors'"):
        model.save(tmp_path, format="pickle", overwrite=True)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        pytest.param(["init_params_", "non_kwargs", "n_latent"], 10**12, id="n_latent"),
        pytest.param(["init_params_", "non_kwargs", "n_latent"], "many", id="text"),
        pytest.param(["init_params_", "non_kwargs", "layout", "side"], 10**9, id="side"),
        pytest.param(["init_params_", "non_kwargs", "layout"], "tsne", id="layout_to_be_fitted"),
        pytest.param(["init_params_", "non_kwargs", "layout", "pixel"], [10**12] * 16, id="pixel"),
        pytest.param(["init_params_", "non_kwargs", "backbone"], "os.system", id="backbone"),
        pytest.param(["init_params_", "non_kwargs", "evil"], 1, id="another_argument"),
        pytest.param(["init_params_", "non_kwargs"], [], id="arguments_as_list"),
        pytest.param(["init_params_"], None, id="no_arguments"),
        pytest.param(["registry_", "setup_args"], [], id="setup_as_list"),
        pytest.param(["history_"], 3, id="history"),
        pytest.param(["calibration_"], {"a": 1}, id="calibration"),
        pytest.param(["novelty_detector_"], [1], id="detector_as_list"),
        pytest.param(["profiles_"], {"a": 1}, id="profiles"),
        pytest.param(["init_params_", "non_kwargs", "taxonomy"], [], id="taxonomy_as_list"),
        pytest.param(["init_params_", "non_kwargs", "taxonomy", "nodes"], [{}], id="node"),
    ],
)
def test_descriptions_of_impossible_models(payload, tmp_path, keys, value):
    *path, last = keys
    place = payload["attr_dict"]
    for key in path:
        place = place[key]
    place[last] = value
    write_model(ModelFolder(tmp_path), payload)
    began = time.perf_counter()
    with pytest.raises(ModelFileError, match="damaged"):
        SCHDeepInsight.load(tmp_path)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
@pytest.mark.parametrize("n_nodes", [10**4, 10**5])
def test_a_taxonomy_of_absurd_depth(payload, tmp_path, kind, n_nodes):
    nodes = [{"name": f"n{i}", "parent": i} for i in range(n_nodes)]
    tree = payload["attr_dict"]["init_params_"]["non_kwargs"]["taxonomy"]
    tree["nodes"] = nodes
    tree["level_names"] = [f"level{i}" for i in range(n_nodes)]
    write_model(ModelFolder(tmp_path), payload, format=kind)
    began = time.perf_counter()
    with pytest.raises(ModelFileError, match="damaged"):
        SCHDeepInsight.load(tmp_path)
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("seed", range(3))
def test_any_missing_or_foreign_value_is_refused_or_harmless(payload, tmp_path, seed):
    """Random surgery on a real payload, correctly sealed: no error of another kind."""
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
        write_model(ModelFolder(tmp_path), spoiled)
        try:
            SCHDeepInsight.load(tmp_path)
        except ModelFileError:
            continue


def test_a_file_may_not_name_any_method(payload, tmp_path, synthetic_hierarchy):
    payload["attr_dict"]["registry_"]["setup_method_name"] = "save"
    write_model(ModelFolder(tmp_path), payload)
    with pytest.raises(ModelFileError, match="set-up method 'save'"):
        SCHDeepInsight.load(tmp_path, synthetic_hierarchy)


def test_the_reference_is_checked_too(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    path = tmp_path / "model" / "adata.h5ad"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(ModelFileError, match=r"adata\.h5ad is different"):
        SCHDeepInsight.load(tmp_path / "model")
    assert SCHDeepInsight.load(tmp_path / "model", adata=False).adata is None


def test_a_copy_without_its_manifest_is_still_guarded(tmp_path):
    """As the hub of scvi-tools fetches it: ``model.pt`` alone."""
    shutil.copy(GOLDEN / "schema_2_torch" / "model.pt", tmp_path)
    SCHDeepInsight.load(tmp_path)
    body = bytearray((tmp_path / "model.pt").read_bytes())
    body[len(body) // 2] ^= 1
    (tmp_path / "model.pt").write_bytes(body)
    with pytest.raises(ModelFileError, match="checksum"):
        SCHDeepInsight.load(tmp_path)
