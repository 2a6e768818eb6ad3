"""Hub errors: refused access, failures, wrong content, stalls and missing connections."""

import hashlib
import logging
import os
import sys
import time

import numpy as np
import pytest

import hdeepinsight as hdi
from hdeepinsight.hub import ChecksumError, HubError, OfflineError

MODEL = "/model.pt"


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Seconds that were to be waited, in order; nobody waits them."""
    asked = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


def pulls(query, shared_model) -> None:
    expected = shared_model.annotate(query).node_probabilities
    found = hdi.hub.pull("atlas/blood").annotate(query).node_probabilities
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("401", r"access was refused \(401\).*HF_TOKEN"),
        ("403", r"access was refused \(403\).*HF_TOKEN"),
        ("404", r"does not exist \(404\).*Check the name"),
        ("429", r"too many requests were sent \(429\).*Try again later"),
        ("500", r"the server failed \(500\).*Try again later"),
        ("503", r"the server failed \(503\)"),
        ("418", r"unexpected answer.*418"),
        ("close", r"no answer.*HTTPS_PROXY"),
        ("garbage", r"unexpected answer.*HF_ENDPOINT"),
    ],
)
def test_hub_errors_become_one_sentence(published, fake_hub, kind, message):
    fake_hub.fault("/api/models/atlas/blood", kind)
    with pytest.raises(
        HubError, match=f"Could not download atlas/blood at {fake_hub.url}"
    ) as caught:
        hdi.hub.pull("atlas/blood")
    assert caught.match(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["429", "500", "503", "close", "truncate", "ignore_range"])
def test_temporary_errors_are_retried(published, fake_hub, query, shared_model, kind):
    path = "/cdn/" if kind in ("truncate", "ignore_range") else "/resolve/"
    if kind == "ignore_range":
        fake_hub.fault("/cdn/", "truncate", times=1)
    fake_hub.fault(path, kind, times=3)
    if kind in ("429", "500", "503"):
        fake_hub.fault("/api/models/atlas/blood", kind, times=3)
    pulls(query, shared_model)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("401", r"model\.pt of atlas/blood .* refused \(401\)"),
        ("404", r"model\.pt of atlas/blood .*404"),
        ("429", r"too many requests"),
        ("500", r"the server failed"),
    ],
)
def test_persistent_errors_raise(published, fake_hub, kind, message):
    fake_hub.fault(MODEL, kind)
    with pytest.raises(HubError, match=message):
        hdi.hub.pull("atlas/blood")
    assert len(fake_hub.asked("GET", "resolve")) < 20


def test_retry_after_is_respected(published, fake_hub, query, shared_model, pauses):
    fake_hub.fault(MODEL, "429", times=1, headers={"Retry-After": "7"})
    pulls(query, shared_model)
    assert any(pause >= 7 for pause in pauses)


def test_interrupted_download_resumes(published, fake_hub, query, shared_model, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    body = fake_hub.repositories["atlas/blood"].commits[published.revision]["model.pt"]
    stored = f"/cdn/{hashlib.sha256(body).hexdigest()}"
    fake_hub.fault(stored, "truncate", times=2)
    pulls(query, shared_model)
    first, *others = (request["headers"].get("range") for request in fake_hub.asked("GET", stored))
    assert first is None
    half = len(body) // 2
    assert others == [f"bytes={half - half % 1000}-", others[1]]


def test_complete_files_are_kept_for_a_later_attempt(
    published, fake_hub, home, query, shared_model
):
    fake_hub.fault(MODEL, "404")
    with pytest.raises(HubError, match=r"model\.pt"):
        hdi.hub.pull("atlas/blood")
    fake_hub.faults.clear()
    fake_hub.requests.clear()
    pulls(query, shared_model)
    assert fake_hub.asked("GET", MODEL)
    assert not fake_hub.asked("GET", "adata.h5ad"), "it was complete"
    folder = home / "cache" / "models" / "atlas%2Fblood" / "revisions"
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [published.revision]
    assert not list(folder.rglob(".cache")), "no notes of the client are left"


def test_partial_download_is_not_a_model(published, fake_hub):
    fake_hub.fault(MODEL, "500")
    with pytest.raises(HubError):
        hdi.hub.pull("atlas/blood")
    assert hdi.hub.list_models(where="here").empty
    fake_hub.faults.clear()
    hdi.hub.pull("atlas/blood")
    assert hdi.hub.list_models(where="here")["model"].tolist() == ["atlas/blood"]


@pytest.mark.parametrize("path", ["/cdn/", "checksums.sha256", "_scvi_required_metadata.json"])
def test_changed_byte_is_detected_and_downloaded_again(
    published, fake_hub, query, shared_model, path
):
    fake_hub.fault(path, "flip", times=1)
    with pytest.raises(HubError, match=r"checksum|SHA-256|complete"):
        hdi.hub.pull("atlas/blood")
    pulls(query, shared_model)


@pytest.mark.parametrize("kind", ["longer", "endless"])
def test_body_longer_than_announced_raises(published, fake_hub, home, kind):
    fake_hub.fault("/cdn/", kind)
    with pytest.raises(HubError, match=r"Consistency check failed|longer than the"):
        hdi.hub.pull("atlas/blood")
    assert sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) < 5_000_000


def test_stalled_body_does_not_hang(published, fake_hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    fake_hub.fault("/cdn/", "stall", value=30.0)
    start = time.monotonic()
    with pytest.raises(HubError, match="no answer"):
        hdi.hub.pull("atlas/blood")
    assert time.monotonic() - start < 15


def test_too_large_model_is_not_downloaded(published, fake_hub):
    with pytest.raises(HubError, match=r"at most 1,000 bytes.*Raise max_bytes"):
        hdi.hub.pull("atlas/blood", max_bytes=1000)
    assert not fake_hub.asked("GET", MODEL)


def test_unknown_revision_and_unknown_repository(published, writer):
    with pytest.raises(HubError, match="no revision 'v9'"):
        hdi.hub.pull("atlas/blood", "v9")
    with pytest.raises(HubError, match=r"does not exist"):
        hdi.hub.pull("atlas/liver")


def test_a_digest_pins_the_content(published, fake_hub):
    assert hdi.hub.download("atlas/blood", published.digest).revision == published.revision
    with pytest.raises(ChecksumError, match="was requested"):
        hdi.hub.download("atlas/blood", "sha256:" + "0" * 64)


def test_a_pinned_commit_needs_no_connection(published, fake_hub, query, shared_model):
    pulls(query, shared_model)
    fake_hub.fault("/", "500")
    fake_hub.requests.clear()
    hdi.hub.pull("atlas/blood", published.revision)
    hdi.hub.pull("atlas/blood", published.digest)
    assert fake_hub.requests == []
    with pytest.raises(
        HubError, match=f"HF_HUB_OFFLINE=1 uses the downloaded {published.revision}"
    ):
        hdi.hub.pull("atlas/blood")


def test_offline_mode_uses_only_local_models(published, fake_hub, monkeypatch, query, shared_model):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"HF_HUB_OFFLINE is set.*HDEEPINSIGHT_MIRROR"):
        hdi.hub.pull("atlas/blood")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    pulls(query, shared_model)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fake_hub.requests.clear()
    pulls(query, shared_model)
    assert fake_hub.requests == []
    with pytest.raises(OfflineError):
        hdi.hub.pull("atlas/blood", "v2")


def test_no_answer_raises(home, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"no answer.*Check the connection"):
        hdi.hub.pull("atlas/blood")


def test_damaged_file_on_disk_is_downloaded_again(published, query, shared_model):
    shared = hdi.hub.download("atlas/blood")
    path = shared.folder / "model.pt"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(ChecksumError, match=r"model\.pt not as published"):
        hdi.hub.pull("atlas/blood")
    pulls(query, shared_model)


def test_token_is_sent_only_to_the_hub(shared_model, card, fake_hub, writer, home, caplog):
    caplog.set_level(logging.DEBUG)
    hdi.hub.publish(shared_model, "atlas/secret", card=card, private=True)
    hdi.hub.pull("atlas/secret", token=writer)
    fake_hub.fault("/api/models", "500", times=100)
    with pytest.raises(HubError) as caught:
        hdi.hub.pull("atlas/secret", token=writer)
    seen = [r for r in fake_hub.requests if writer in r["headers"].get("authorization", "")]
    assert seen
    assert not [r for r in seen if "/cdn/" in r["path"]], "sent to the CDN"
    assert writer not in caplog.text
    assert writer not in str(caught.value)
    written = [path for path in home.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if writer.encode() in path.read_bytes()]


def test_rights(shared_model, card, fake_hub, writer, monkeypatch):
    hdi.hub.publish(shared_model, "atlas/secret", card=card, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_mayReadOnly")
    hdi.hub.pull("atlas/secret")
    with pytest.raises(HubError, match=r"publish to atlas/secret .* refused \(403\)"):
        hdi.hub.publish(shared_model, "atlas/secret", card=card)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(HubError, match=r"refused \(401\)"):
        hdi.hub.pull("atlas/secret", "main")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"refused \(401\)"):
        hdi.hub.pull("atlas/secret")


def test_a_private_model_is_not_published_openly(shared_model, card, fake_hub, writer, tmp_path):
    hdi.hub.publish(shared_model, "atlas/open", card=card)
    before = dict(fake_hub.repositories["atlas/open"].commits)
    with pytest.raises(HubError, match=r"the repository exists and is public"):
        hdi.hub.publish(shared_model, "atlas/open", card=card, private=True)
    assert fake_hub.repositories["atlas/open"].commits == before
    with pytest.raises(ValueError, match=r"private must be omitted, got True"):
        hdi.hub.publish(shared_model, tmp_path / "folder", card=card, private=True)


@pytest.mark.parametrize("name", ["../../evil.pt", "/etc/evil", "a/../../evil", ".ssh/config"])
def test_a_file_name_cannot_leave_the_folder(published, fake_hub, home, name):
    repository = fake_hub.repositories["atlas/blood"]
    files = dict(repository.commits[published.revision])
    n_listed = files["checksums.sha256"].count(b"\n") - 1
    more = files["checksums.sha256"].replace(b"# %d" % n_listed, b"# %d" % (n_listed + 1))
    files["checksums.sha256"] = more + f"{'0' * 64}  {name}\n".encode()
    files[name] = b"evil"
    repository.commit("main", files)
    with pytest.raises(ChecksumError, match="plain file name"):
        hdi.hub.pull("atlas/blood")
    assert not list(home.rglob("*evil*"))


def test_unlisted_files_are_not_downloaded(published, fake_hub):
    repository = fake_hub.repositories["atlas/blood"]
    files = dict(repository.commits[published.revision])
    repository.commit("main", {**files, "extra.py": b"print('hello')"})
    shared = hdi.hub.download("atlas/blood")
    assert not (shared.folder / "extra.py").exists()
    assert not fake_hub.asked("GET", "extra.py")


def test_class_name_of_a_repository_imports_nothing(published, fake_hub, query, shared_model):
    repository = fake_hub.repositories["atlas/blood"]
    files = dict(repository.commits[published.revision])
    name = "_scvi_required_metadata.json"
    before = hashlib.sha256(files[name]).hexdigest().encode()
    files[name] = files[name].replace(b'"hdeepinsight"', b'"antigravity"')
    after = hashlib.sha256(files[name]).hexdigest().encode()
    files["checksums.sha256"] = files["checksums.sha256"].replace(before, after)
    repository.commit("main", files)
    pulls(query, shared_model)
    assert "antigravity" not in sys.modules


def test_publishing_again_removes_old_files(shared_model, card, published, fake_hub, writer):
    repository = fake_hub.repositories["atlas/blood"]
    files = dict(repository.commits[published.revision])
    repository.commit("main", {**files, "old.json": b"{}"})
    again = hdi.hub.publish(shared_model, "atlas/blood", card=card)
    assert set(repository.commits[again.revision]) == set(files)
    assert again.digest == published.digest


def test_a_wrong_clock_does_not_change_what_is_newest(published, fake_hub, monkeypatch):
    first = hdi.hub.download("atlas/blood")
    repository = fake_hub.repositories["atlas/blood"]
    files = dict(repository.commits[published.revision])
    newer = repository.commit("main", {**files, "README.md": b"---\ntags: []\n---\n"})
    hdi.hub.download("atlas/blood")
    tomorrow = time.time() + 86_400
    os.utime(first.folder, (tomorrow, tomorrow))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hdi.hub.download("atlas/blood").revision == newer
    assert hdi.hub.list_models(where="here")["revision"].tolist() == [newer]


def test_branches(shared_model, card, fake_hub, writer):
    first = hdi.hub.publish(shared_model, "atlas/blood", card=card)
    second = hdi.hub.publish(shared_model, "atlas/blood", card=card, revision="bare")
    assert hdi.hub.download("atlas/blood", "bare").revision == second.revision
    assert hdi.hub.download("atlas/blood").revision == first.revision
