"""Saved models are complete, portable, and contain no code."""

import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch

from hdeepinsight import SCHDeepInsight
from hdeepinsight.models import ModelFileError, ModelFolder


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_load_needs_no_anndata_and_annotates_the_same(model, saved, query):
    loaded = SCHDeepInsight.load(saved)
    assert loaded.adata is None
    pd.testing.assert_frame_equal(loaded.predict_proba(query), model.predict_proba(query))
    assert loaded.taxonomy == model.taxonomy
    assert loaded.recipe == model.recipe
    np.testing.assert_array_equal(loaded.validation_indices, model.validation_indices)
    for key, table in model.history.items():
        np.testing.assert_array_equal(loaded.history[key], table.astype(float))
    assert repr(loaded) == repr(model)


def test_another_process_annotates_the_same(model, saved, query, tmp_path):
    query.write_h5ad(tmp_path / "query.h5ad")
    run(
        """
        import sys
        from hdeepinsight import SCHDeepInsight
        model = SCHDeepInsight.load(sys.argv[1])
        model.predict_proba(sys.argv[2]).to_pickle(sys.argv[3])
        """,
        saved,
        tmp_path / "query.h5ad",
        tmp_path / "probabilities.pkl",
    )
    elsewhere = pd.read_pickle(tmp_path / "probabilities.pkl")
    np.testing.assert_allclose(elsewhere, model.predict_proba(query), atol=1e-6)


def test_invalid_references_cannot_be_attached(saved):
    for adata in ("reference.h5ad", 3):
        with pytest.raises(
            TypeError, match=rf"adata must.*, got a {type(adata).__name__}\. Read files"
        ):
            SCHDeepInsight.load(saved, adata=adata)


def test_a_model_without_a_reference_can_be_viewed(saved, reference, capsys):
    loaded = SCHDeepInsight.load(saved)
    for view in (loaded.view_anndata_setup, loaded.view_registry, loaded.view_setup_method_args):
        view()
        assert "'labels_keys': ['lineage', 'cell_type']" in capsys.readouterr().out
    loaded.view_anndata_setup(reference)
    assert "120" in capsys.readouterr().out


def test_training_without_a_reference_raises_with_advice(saved):
    with pytest.raises(ValueError, match="has no reference attached"):
        SCHDeepInsight.load(saved).train(max_epochs=1)


def test_load_with_an_anndata_attaches_it(model, saved, reference):
    loaded = SCHDeepInsight.load(saved, reference)
    assert loaded.adata is reference
    assert loaded.evaluate().n_cells == len(model.validation_indices)
    loaded.train(max_epochs=1, validation_size=0.2, enable_progress_bar=False)


def test_the_parts_of_the_training_are_found_by_name(fit, reference, tmp_path):
    model = fit(reference, train={"max_epochs": 1, "train_size": 0.5, "validation_size": 0.2})
    model.save(tmp_path / "model")
    names = "train_indices", "validation_indices", "test_indices"
    for order in (np.arange(300), np.random.default_rng(0).permutation(300)):
        same = reference[order].copy()
        loaded = SCHDeepInsight.load(tmp_path / "model", same)
        for name in names:
            expected = reference.obs_names[getattr(model, name)]
            assert set(same.obs_names[getattr(loaded, name)]) == set(expected)
    letters = np.random.default_rng(1).choice(list("ACGT"), (300, 16))
    same.obs_names = ["".join(row) for row in letters]
    loaded = SCHDeepInsight.load(tmp_path / "model", same)
    assert not any(len(getattr(loaded, name)) for name in names)
    loaded.train(max_epochs=1, validation_size=0.2, enable_progress_bar=False)


def test_the_reference_can_be_saved_with_the_model(model, tmp_path):
    model.save(tmp_path / "both", save_anndata=True)
    loaded = SCHDeepInsight.load(tmp_path / "both")
    assert loaded.adata.n_obs == model.adata.n_obs
    assert SCHDeepInsight.load(tmp_path / "both", adata=True).adata.n_obs == model.adata.n_obs
    assert SCHDeepInsight.load(tmp_path / "both", adata=False).adata is None


def test_the_file_holds_plain_types_and_tensors_only(saved):
    payload = torch.load(saved / "model.pt", weights_only=True)
    assert set(payload) == {"model_state_dict", "var_names", "attr_dict", "sealed"}


def test_an_existing_model_is_replaced_only_when_asked(model, saved):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(saved)
    model.save(saved, overwrite=True)


def test_a_full_disk_leaves_the_old_model(model, saved, query):
    expected = model.predict_proba(query)
    code = """
        import resource, signal, sys
        from hdeepinsight import SCHDeepInsight
        model = SCHDeepInsight.load(sys.argv[1])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            model.save(sys.argv[1], overwrite=True)
        except OSError as error:
            print("refused", error.errno)
        """
    assert "refused" in run(code, saved)
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "model.pt"]
    np.testing.assert_allclose(SCHDeepInsight.load(saved).predict_proba(query), expected)


class Payload:
    """Runs code when unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path, how):
    (tmp_path / "model").mkdir()
    path, proof = tmp_path / "model" / "model.pt", tmp_path / "it_ran"
    payload = {"attr_dict": Payload(proof)}
    if how == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload))
    with pytest.raises(ModelFileError, match=r"plain types"):
        SCHDeepInsight.load(tmp_path / "model")
    assert not proof.exists()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda b: b[: len(b) // 2], id="truncated"),
        pytest.param(lambda b: b"", id="empty"),
        pytest.param(lambda b: b"not a model at all", id="text"),
        pytest.param(lambda b: b[:200] + b"\0" * 400 + b[600:], id="overwritten_header"),
    ],
)
def test_a_damaged_file_is_refused(saved, damage):
    path = saved / "model.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelFileError, match=r"model\.pt"):
        SCHDeepInsight.load(saved)


def test_weights_that_do_not_fit_are_refused(saved):
    payload = torch.load(saved / "model.pt", weights_only=True)
    payload["model_state_dict"].pop("head.linear.weight")
    ModelFolder(saved).write(payload)
    with pytest.raises(ModelFileError, match=r"do not match.*head\.linear\.weight"):
        SCHDeepInsight.load(saved)


def test_a_file_of_another_package_is_refused(tmp_path):
    torch.save({"epoch": 3, "weights": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="it holds epoch, weights"):
        SCHDeepInsight.load(tmp_path)
    with pytest.raises(ModelFileError, match="There is no model"):
        SCHDeepInsight.load(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"model\.pt: that is not a folder with model\.pt"):
        SCHDeepInsight.load(tmp_path / "model.pt")


def test_another_model_class_is_refused(tmp_path):
    attributes = {"registry_": {"model_name": "SCVI"}}
    torch.save({"attr_dict": attributes}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="holds a SCVI"):
        SCHDeepInsight.load(tmp_path)


def test_the_registry_is_read_without_running_anything(saved, tmp_path, capsys):
    registry = SCHDeepInsight.load_registry(saved)
    assert registry["setup_args"]["labels_keys"] == ["lineage", "cell_type"]
    SCHDeepInsight.view_setup_args(saved)
    assert "labels_keys" in capsys.readouterr().out
    proof = tmp_path / "it_ran"
    torch.save({"attr_dict": Payload(proof)}, tmp_path / "model.pt")
    for read in (SCHDeepInsight.load_registry, SCHDeepInsight.view_setup_args):
        with pytest.raises(ModelFileError):
            read(tmp_path)
    assert not proof.exists()


def test_a_newer_schema_asks_for_an_update(tmp_path):
    attributes = {"registry_": {"model_name": "SCHDeepInsight"}, "schema_version_": 99}
    torch.save({"attr_dict": attributes}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="Update hdeepinsight"):
        SCHDeepInsight.load(tmp_path)


def test_plain_types_hold_the_same_information(tmp_path):
    folder = ModelFolder(tmp_path / "plain")
    folder.write({"n": np.int64(3), "names": np.array(["a", "b"], dtype=object)})
    read = folder.read()
    assert read == {"n": 3, "names": ["a", "b"]}
    assert type(read["n"]) is int
    with pytest.raises(TypeError, match="set"):
        folder.write({"a": {1, 2}})


def test_a_failed_write_leaves_no_temporary_files(tmp_path):
    with pytest.raises(TypeError):
        ModelFolder(tmp_path).write({"a": object()})
    assert list(tmp_path.iterdir()) == []
