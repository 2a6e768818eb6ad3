"""``hdeepinsight convert``: conversion of saved models and queries; no code in them runs."""

import os

import anndata as ad
import numpy as np
import pytest
import torch

from hdeepinsight import SCHDeepInsight


@pytest.fixture
def model(files):
    return SCHDeepInsight.load(files.model)


def test_older_model_is_converted(hdeepinsight, model, files, tmp_path):
    there = tmp_path / "there"
    assert hdeepinsight("convert", files.model, there).exit_code == 0
    assert (there / "model.pt").read_bytes() == (files.model / "model.pt").read_bytes()
    done = hdeepinsight("convert", files.model, there)
    assert (done.exit_code, "exists" in done.stderr) == (1, True)
    assert hdeepinsight("convert", there, there, "--overwrite").exit_code == 0
    assert sorted(path.name for path in there.iterdir()) == ["manifest.json", "model.pt"]


class Payload:
    """Runs code when unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_no_code_runs(hdeepinsight, tmp_path):
    (tmp_path / "old").mkdir()
    torch.save({"attr_dict": Payload(tmp_path / "it_ran")}, tmp_path / "old" / "model.pt")
    done = hdeepinsight("convert", tmp_path / "old", tmp_path / "new")
    assert done.exit_code == 1
    assert "mkdir" in done.stderr
    assert not (tmp_path / "it_ran").exists()


def test_a_query_is_converted_to_a_fast_store(files, hdeepinsight, tmp_path, monkeypatch):
    for name in ("fast.zarr", "fast.h5ad"):
        done = hdeepinsight("convert", files.query, tmp_path / name, "--fast")
        assert done.exit_code == 0, done.output
        assert "Written to" in done.output
    found, query = ad.read_h5ad(tmp_path / "fast.h5ad"), ad.read_h5ad(files.query)
    np.testing.assert_array_equal(np.asarray(found.to_df()), np.asarray(query.to_df()))
    done = hdeepinsight("convert", files.query, tmp_path / "fast.zarr", "--fast")
    assert done.exit_code == 2
    assert "exists already" in done.output or "already exists" in done.output
    monkeypatch.setenv("HOME", str(tmp_path))  # for a ~ that the shell left
    assert hdeepinsight("convert", files.query, "~/home.zarr", "--fast").exit_code == 0
    assert (tmp_path / "home.zarr").is_dir()
    done = hdeepinsight("convert", files.query, tmp_path / "fast.h5ad")
    assert (done.exit_code, "Pass --fast" in done.output) == (2, True)
    done = hdeepinsight("convert", files.query, tmp_path / "fast.csv", "--fast")
    assert "must end in .zarr or .h5ad" in done.output
