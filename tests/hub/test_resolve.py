"""What a user calls a model: a folder that is here, or an address that is fetched from."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import hdeepinsight as hdi
from hdeepinsight.cli import app
from hdeepinsight.hub import ChecksumError, HubError, OfflineError, resolve_model


@pytest.fixture
def expected(shared_model, query):
    return shared_model.annotate(query)


def annotated(query, model):
    return hdi.annotate(query, model, adapt="off", refine="off").node_probabilities


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_one_call_takes_an_address(published, fake_hub, query, expected, monkeypatch):
    np.testing.assert_array_equal(annotated(query, "atlas/blood"), expected.node_probabilities)
    assert fake_hub.asked("GET", "/cdn/"), "the weights came from the server"
    fake_hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    np.testing.assert_array_equal(annotated(query, "atlas/blood"), expected.node_probabilities)
    assert fake_hub.requests == [], "it is here by now"


def test_the_command_takes_an_address(published, fake_hub, query, expected, tmp_path):
    query.write_h5ad(tmp_path / "query.h5ad")
    done = command(
        "annotate", tmp_path / "query.h5ad", "--model", "atlas/blood", "--out", tmp_path / "x.csv"
    )
    assert done.exit_code == 0, done.stderr
    labels = pd.read_csv(tmp_path / "x.csv", index_col=0)["cell_type"].to_list()
    assert labels == expected.labels["cell_type"].to_list()


def test_a_bucket_and_a_file_address(shared_model, card, bucket, published_folder, query, expected):
    address = f"s3://{bucket}/blood"
    hdi.hub.publish(shared_model, address, card=card)
    for model in (address, published_folder.as_uri()):
        np.testing.assert_array_equal(annotated(query, model), expected.node_probabilities)


def test_a_folder_that_is_there_is_not_looked_for_elsewhere(published, fake_hub, home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "atlas" / "blood").mkdir(parents=True)
    assert resolve_model("atlas/blood") == Path("atlas/blood")
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    "model", ["./atlas/blood", "../blood", "/atlas/blood", Path("atlas/blood")]
)
def test_a_path_is_a_folder_whether_it_is_there_or_not(fake_hub, model):
    assert resolve_model(model) == Path(model)
    assert fake_hub.requests == []


def test_the_home_folder_is_known(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    assert resolve_model("~/blood") == home / "blood"


@pytest.mark.parametrize("model", ["blood", "a/b/c", "http://x/y", ""])
def test_what_is_neither_folder_nor_address(home, monkeypatch, model):
    monkeypatch.chdir(home)
    with pytest.raises(ValueError, match=r"neither a folder nor.*Valid are.*Check the path"):
        resolve_model(model)
    done = command("evaluate", "query.h5ad", "--model", model)
    assert (done.exit_code, "neither a folder" in done.stderr) == (1, True)


def test_a_mistyped_folder_looks_like_a_repository(fake_hub, monkeypatch):
    with pytest.raises(HubError, match=r"no folder 'runs/bload', so the hub was asked.*\(40[14]\)"):
        resolve_model("runs/bload")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"no folder 'runs/bload'.*HF_HUB_OFFLINE"):
        resolve_model("runs/bload")


def test_what_is_not_as_published_is_not_loaded(published_folder, home, query):
    folder = shutil.copytree(published_folder, home / "blood")
    body = bytearray((folder / "model.pt").read_bytes())
    body[len(body) // 2] ^= 1
    (folder / "model.pt").write_bytes(body)
    with pytest.raises(ChecksumError, match="not as published"):
        hdi.annotate(query, folder.as_uri())
