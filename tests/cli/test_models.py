"""``hdeepinsight publish``, ``pull`` and ``models``."""

import json

import anndata as ad
import pytest

CARD = {"title": "Blood", "license": "mit", "organism": "human", "tissues": ["blood"]}


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HDEEPINSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HDEEPINSIGHT_MIRROR", raising=False)


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card.json"
    path.write_text(json.dumps(CARD))
    return path


def test_publish_pull_and_annotate(hdeepinsight, files, card, tmp_path, monkeypatch):
    place = tmp_path / "mirror" / "atlas" / "blood"
    options = ["--model", files.model, "--card", card, "--data", files.reference]
    done = hdeepinsight("publish", *options, place)
    assert done.exit_code == 0, done.stderr
    assert "held-out cells of the reference" in (place / "README.md").read_text()

    monkeypatch.setenv("HDEEPINSIGHT_MIRROR", str(place.parents[1]))
    done = hdeepinsight("pull", "atlas/blood", "--out", tmp_path / "pulled")
    assert done.exit_code == 0, done.stderr
    assert f"folder    {tmp_path / 'pulled'}" in done.stdout

    for model in (files.model, tmp_path / "pulled"):
        out = tmp_path / f"{model.name}.h5ad"
        done = hdeepinsight("annotate", files.query, "--model", model, "--out", out)
        assert done.exit_code == 0, done.stderr
    ours, theirs = (
        ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in (files.model.name, "pulled")
    )
    assert (ours.obsm["hdi_probabilities"] == theirs.obsm["hdi_probabilities"]).all(axis=None)


def test_card_may_have_a_byte_order_mark(hdeepinsight, files, card, tmp_path):
    card.write_text(json.dumps(CARD), encoding="utf-8-sig")
    done = hdeepinsight("publish", "--model", files.model, "--card", card, tmp_path / "blood")
    assert done.exit_code == 0, done.stderr


def test_downloaded_models_are_listed_offline(hdeepinsight):
    done = hdeepinsight("models", "--where", "here")
    assert (done.exit_code, done.stdout) == (0, "No models were found.\n")


def test_errors(hdeepinsight):
    for command, code, message in [
        (["pull", "atlas/blood"], 1, "HF_HUB_OFFLINE is set"),
        (["pull", "blood"], 1, "is not the address of a model"),
        (["pull", "./x", "--out", "."], 2, "already exists"),
        (["models", "--where", "hub"], 1, "HF_HUB_OFFLINE is set"),
        (["publish", "--model", "m", "--card", "no.json", "./x"], 2, "could not be read as JSON"),
    ]:
        done = hdeepinsight(*command)
        assert done.exit_code == code
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
