"""Listing of models, without waiting for missing hubs."""

import shutil
import socket
import sys
import time

import pytest

import hdeepinsight as hdi
from hdeepinsight.hub import HubError


def test_lists(published, fake_hub, home, monkeypatch):
    everything = hdi.hub.list_models()
    assert everything["model"].tolist() == ["immune", "pbmc", "atlas/blood"]
    hdi.hub.pull("atlas/blood")
    found = hdi.hub.list_models("blood")
    assert found["where"].tolist() == ["here", "hub"]
    assert set(found["revision"]) == {published.revision}
    assert set(found["tissues"]) == {"blood, bone marrow"}
    assert set(found["n_types"]) == {"7"}
    assert hdi.hub.list_models("liver").empty
    with pytest.raises(ValueError, match="where must be one of 'all', 'bundled'"):
        hdi.hub.list_models(where="local")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hdi.hub.list_models()["where"].tolist() == ["bundled", "bundled", "here"]
    with pytest.raises(HubError, match="where='here'"):
        hdi.hub.list_models(where="hub")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fake_hub.fault("/api/models", "403")
    with pytest.warns(UserWarning, match=r"Only local models.*\(403\)"):
        assert hdi.hub.list_models()["where"].tolist() == ["bundled", "bundled", "here"]


def test_listing_does_not_wait_for_a_missing_hub(home, monkeypatch):
    with socket.socket() as nobody:  # bound, but nothing listens
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        start = time.monotonic()
        with pytest.warns(UserWarning, match="Only local models"):
            assert hdi.hub.list_models()["where"].tolist() == ["bundled", "bundled"]
        assert time.monotonic() - start < 5


def test_a_mirror_folder_is_listed(published_folder, home, monkeypatch):
    shutil.copytree(published_folder, home / "mirror" / "atlas" / "blood")
    monkeypatch.setenv("HDEEPINSIGHT_MIRROR", str(home / "mirror"))
    assert hdi.hub.list_models(where="hub")["model"].tolist() == ["atlas/blood"]


def test_listing_without_the_extra(published, fake_hub, home, monkeypatch):
    hdi.hub.pull("atlas/blood")
    for package in ("huggingface_hub", "huggingface_hub.utils", "s3fs", "fsspec"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.warns(UserWarning, match=r"Only local models.*hub.*hdeepinsight\[hub\]"):
        found = hdi.hub.list_models()
    assert found["where"].tolist() == ["bundled", "bundled", "here"]
    assert hdi.hub.list_models("blood", where="here")["n_types"].tolist() == ["7"]
