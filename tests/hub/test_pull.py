"""Loading models by name, folder or address."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import hdeepinsight as hdi
from hdeepinsight.cli import app
from hdeepinsight.hub import ChecksumError, HubError, OfflineError, load_model, resolve_model


@pytest.fixture
def expected(shared_model, query):
    return shared_model.annotate(query).node_probabilities


def assert_same(model, query, expected):
    np.testing.assert_array_equal(model.annotate(query).node_probabilities, expected)


def test_hub(shared_model, card, fake_hub, writer, query, expected):
    published = hdi.hub.publish(shared_model, "atlas/blood", card=card)
    assert_same(hdi.hub.pull("atlas/blood"), query, expected)
    assert_same(hdi.hub.pull("atlas/blood", revision=published.revision), query, expected)
    shared = hdi.hub.download("atlas/blood", published.digest)
    assert (shared.revision, shared.digest) == (published.revision, published.digest)
    assert len(fake_hub.repositories["atlas/blood"].commits) == 2, "one commit, after the first"
    assert fake_hub.asked("PUT", "/lfs/"), "large files go through LFS"


def test_bucket(shared_model, card, bucket, query, expected):
    published = hdi.hub.publish(shared_model, f"s3://{bucket}/atlas/blood", card=card)
    assert published.revision == published.digest
    assert_same(hdi.hub.pull(f"s3://{bucket}/atlas/blood"), query, expected)
    assert_same(hdi.hub.pull(published.address, published.revision), query, expected)


@pytest.mark.parametrize("write", [str, lambda path: path, lambda path: path.as_uri()])
def test_folder(shared_model, card, home, query, expected, write):
    folder = write(home / "models" / "blood")
    published = hdi.hub.publish(shared_model, folder, card=card)
    assert_same(hdi.hub.pull(folder), query, expected)
    assert_same(hdi.hub.pull(published.address, published.digest), query, expected)


def test_the_same_model_has_the_same_digest_wherever_it_is(
    shared_model, card, fake_hub, writer, bucket, home
):
    places = ["atlas/blood", f"s3://{bucket}/blood", home / "blood"]
    digests = {hdi.hub.publish(shared_model, place, card=card).digest for place in places}
    assert len(digests) == 1


def annotated(query, model):
    return hdi.annotate(query, model, adapt="off", refine="off").node_probabilities


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_annotate_accepts_an_address(published, fake_hub, query, expected, monkeypatch):
    np.testing.assert_array_equal(annotated(query, "atlas/blood"), expected)
    assert fake_hub.asked("GET", "/cdn/"), "the weights came from the server"
    fake_hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    np.testing.assert_array_equal(annotated(query, "atlas/blood"), expected)
    assert fake_hub.requests == [], "it is here by now"


def test_command_line_accepts_an_address(published, fake_hub, query, shared_model, tmp_path):
    query.write_h5ad(tmp_path / "query.h5ad")
    files = tmp_path / "query.h5ad", "--model", "atlas/blood", "--out", tmp_path / "x.csv"
    done = command("annotate", "--fast", *files)
    assert done.exit_code == 0, done.stderr
    labels = pd.read_csv(tmp_path / "x.csv", index_col=0)["cell_type"].to_list()
    assert labels == shared_model.annotate(query).labels["cell_type"].to_list()


def test_a_bucket_and_a_file_address(shared_model, card, bucket, published_folder, query, expected):
    address = f"s3://{bucket}/blood"
    hdi.hub.publish(shared_model, address, card=card)
    for model in (address, published_folder.as_uri()):
        np.testing.assert_array_equal(annotated(query, model), expected)


def test_existing_folder_takes_precedence(published, fake_hub, home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "atlas" / "blood").mkdir(parents=True)
    assert resolve_model("atlas/blood") == Path("atlas/blood")
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    "model", ["./atlas/blood", "../blood", "/atlas/blood", Path("atlas/blood")]
)
def test_paths_are_always_folders(fake_hub, model):
    assert resolve_model(model) == Path(model)
    assert fake_hub.requests == []


def test_the_home_folder_is_known(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    assert resolve_model("~/blood") == home / "blood"


@pytest.mark.parametrize("model", ["blood", "a/b/c", "http://x/y", ""])
def test_neither_folder_nor_address_raises(home, monkeypatch, model):
    monkeypatch.chdir(home)
    said = r"neither a folder nor one of immune, pbmc.*(Write local folders|Pass 'owner/name')"
    with pytest.raises(ValueError, match=said):
        resolve_model(model)
    done = command("evaluate", "query.h5ad", "--model", model)
    assert (done.exit_code, "neither a folder" in done.stderr) == (1, True)


def test_a_mistyped_folder_looks_like_a_repository(fake_hub, monkeypatch):
    with pytest.raises(HubError, match=r"no folder 'runs/bload', so the hub was tried.*\(40[14]\)"):
        resolve_model("runs/bload")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"no folder 'runs/bload'.*HF_HUB_OFFLINE"):
        resolve_model("runs/bload")


def test_modified_model_is_not_loaded(published_folder, home, query):
    folder = shutil.copytree(published_folder, home / "blood")
    body = bytearray((folder / "model.pt").read_bytes())
    body[len(body) // 2] ^= 1
    (folder / "model.pt").write_bytes(body)
    with pytest.raises(ChecksumError, match="not as published"):
        hdi.annotate(query, folder.as_uri())


def test_load_model_arguments(shared_model, published_folder):
    assert load_model(shared_model) is shared_model
    assert load_model(str(published_folder)).taxonomy == shared_model.taxonomy
    for wrong in (3, None, type(shared_model), shared_model.adata):
        with pytest.raises(TypeError, match="The model must be a trained model, or the name"):
            load_model(wrong)
    with pytest.raises(ValueError, match="accelerator has no effect on a model that is loaded"):
        load_model(shared_model, accelerator="cpu")
