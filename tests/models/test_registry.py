"""Registered model classes are found by the name in a file, also classes of other packages."""

import pytest
import torch

from hdeepinsight.models import ModelFileError, ModelFolder, convert_model, load_model, model_class
from hdeepinsight.models._base import _registry, _schema


class Toy:
    """Minimal model class."""

    def __init__(self, weights: dict) -> None:
        self.module = torch.nn.Linear(2, 1)
        self.module.load_state_dict(weights)

    @classmethod
    def _from_payload(cls, payload, adata, name):
        model = cls(payload["model_state_dict"])
        model.adata = adata
        model.adata = adata
        model.attributes = _schema.migrate(payload["attr_dict"])
        return model

    def _payload(self):
        return {"model_state_dict": self.module.state_dict(), "attr_dict": self.attributes}

    def save(self, folder, *, overwrite, save_anndata):
        ModelFolder(folder).write(self._payload())

    def to_device(self, device):
        self.module.to(device)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> ModelFolder:
    monkeypatch.setattr(_registry, "_classes", dict(_registry._classes))
    _registry.register(Toy)
    attributes = {"registry_": {"model_name": "Toy"}, "init_params_": {"non_kwargs": {}}}
    weights = torch.nn.Linear(2, 1).state_dict()
    folder = ModelFolder(tmp_path / "toy", "my_")
    folder.write({"model_state_dict": weights, "attr_dict": attributes})
    return folder


def test_a_class_is_found_by_its_name(folder):
    assert model_class("Toy") is Toy
    model = load_model(folder.path, accelerator="cpu", prefix="my_")
    assert type(model) is Toy
    assert model.adata is None
    assert not model.module.training
    weights = folder.read()["model_state_dict"]
    assert all(torch.equal(weights[k], v) for k, v in model.module.state_dict().items())


def test_a_model_of_another_class_than_expected_is_refused(folder):
    with pytest.raises(ModelFileError, match=r"holds a Toy, not a SCHDeepInsight.*load_model"):
        load_model(folder.path, prefix="my_", expected=model_class("SCHDeepInsight"))


def test_an_older_schema_is_written_in_the_present_one(folder, tmp_path):
    (folder.path / "my_model.pt").rename(folder.path / "model.pt")
    model = convert_model(folder.path, tmp_path / "new")
    assert type(model) is Toy
    written = ModelFolder(tmp_path / "new").read()["attr_dict"]
    assert written["schema_version_"] == _schema.SCHEMA_VERSION
    assert written["calibration_"] is None
    assert written["adapter_"] is None


def test_an_unregistered_class_raises(folder):
    payload = folder.read()
    payload["attr_dict"]["registry_"]["model_name"] = "SCVI"
    folder.write(payload)
    with pytest.raises(ModelFileError, match="holds a SCVI, which is not a model of hdeepinsight"):
        load_model(folder.path, prefix="my_")
