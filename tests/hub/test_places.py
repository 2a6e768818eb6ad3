"""Addresses, folders, buckets and mirrors."""

import os
import re
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import boto3
import numpy as np
import pytest

import hdeepinsight as hdi
from hdeepinsight.hub import ChecksumError, HubError, OfflineError


@pytest.fixture
def expected(shared_model, query):
    return shared_model.annotate(query).node_probabilities


def test_addresses(home, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for text, found in [
        ("atlas/pbmc", "Could not download atlas/pbmc:"),
        ("hf://atlas/pbmc-v1.2", "Could not download atlas/pbmc-v1.2:"),
        ("s3://lab/a/b/", "Could not download s3://lab/a/b:"),
        ("file:///data/my%20models", "There is no folder /data/my models."),
        ("file:///data/run#3?", "There is no folder /data/run#3?."),
        ("file://localhost/data/x", "There is no folder /data/x."),
        ("/data/x", "There is no folder /data/x."),
        (Path("/data/x"), "There is no folder /data/x."),
    ]:
        with pytest.raises(HubError, match=re.escape(found)):
            hdi.hub.download(text)


def test_addresses_do_not_depend_on_the_working_directory(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "atlas" / "pbmc").mkdir(parents=True)
    with pytest.raises(OfflineError, match="Could not download atlas/pbmc:"):
        hdi.hub.download("atlas/pbmc")
    with pytest.raises(HubError, match="atlas/pbmc holds no published model"):
        hdi.hub.download("./atlas/pbmc")


def test_invalid_addresses_raise():
    for text in [
        "",
        "blood",
        "a/b/c",
        "atlas/..",
        "s3://lab",
        "s3://L/x",
        "s3://lab/../x",
        "http://x/y",
        "atlas/a--b",
        "-a/b",
        "a/b?c",
        "s3://",
        "file://models/pbmc",
        "file://",
        "file://models",
    ]:
        with pytest.raises(ValueError, match="is not the address of a model"):
            hdi.hub.download(text)


def test_advice_fits_what_was_given():
    for text, advice in [
        ("atlas/pbmc@v1", r"Pass 'atlas/pbmc', and revision='v1'\."),
        ("hf://atlas/pbmc@refs/pr/1", r"Pass 'atlas/pbmc', and revision='refs/pr/1'\."),
        ("https://huggingface.co/atlas/pbmc", "Pass 'owner/name', and set HF_ENDPOINT"),
        ("pbmc_model", r"Write local folders as '\./folder'"),
    ]:
        with pytest.raises(ValueError, match=advice):
            hdi.hub.download(text)


def test_unpublished_folder_raises(shared_model, home):
    with pytest.raises(HubError, match=r"There is no folder .*nowhere\. Check the name"):
        hdi.hub.pull(home / "nowhere")
    shared_model.save(home / "saved")
    with pytest.raises(HubError, match=r"save\(\) wrote need no download: use load_model"):
        hdi.hub.pull(home / "saved")


def test_invalid_limit_raises(published_folder):
    for limit in ["1 GB", None, -1]:
        with pytest.raises(ValueError, match="max_bytes must be a finite number >= 0, got"):
            hdi.hub.pull(published_folder, max_bytes=limit)


def test_other_objects_are_not_published(card, home):
    with pytest.raises(ValueError, match=r"model must be a model, got 'my_model'. Load a saved"):
        hdi.hub.publish("my_model", home / "published", card=card)


def test_a_place_without_a_list_of_checksums_is_refused(
    published, fake_hub, published_folder, bucket, home
):
    repository = fake_hub.repositories["atlas/blood"]
    files = dict(repository.commits[published.revision])
    del files["checksums.sha256"]
    repository.commit("main", files)
    folder = shutil.copytree(published_folder, home / "blood")
    (folder / "checksums.sha256").unlink()
    upload(boto3.client("s3"), bucket, folder, "blood")
    for place in ("atlas/blood", folder, f"s3://{bucket}/blood"):
        with pytest.raises(HubError, match=r"checksums\.sha256"):
            hdi.hub.pull(place)
    assert not list((home / "cache").rglob("model.pt"))


def test_published_model_is_replaced_only_with_overwrite(
    shared_model, card, published_folder, home
):
    folder = shutil.copytree(published_folder, home / "blood")
    with pytest.raises(HubError, match="overwrite=True"):
        hdi.hub.publish(shared_model, folder, card=card)
    hdi.hub.publish(shared_model, folder, card=card, overwrite=True)
    assert [path.name for path in home.iterdir()] == ["blood"], "nothing is left behind"
    (home / "thesis").mkdir()
    (home / "thesis" / "chapter1.txt").write_text("...")
    with pytest.raises(HubError, match="not published by"):
        hdi.hub.publish(shared_model, home / "thesis", card=card, overwrite=True)
    assert (home / "thesis" / "chapter1.txt").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [("a_file", "a_file is a file"), ("a_file/x", "a_file is a file"), (".", "not published by")],
)
def test_invalid_target_raises_early(shared_model, card, home, monkeypatch, place, message):
    (home / "a_file").write_text("mine")
    monkeypatch.chdir(home)
    monkeypatch.setattr(type(shared_model), "save", None)
    with pytest.raises(HubError, match=message):
        hdi.hub.publish(shared_model, home / place, card=card)
    assert (home / "a_file").read_text() == "mine"


@pytest.mark.skipif(os.access("/proc/self", os.W_OK), reason="this user may write anywhere")
def test_read_only_target_raises_early(shared_model, card, monkeypatch):
    monkeypatch.setattr(type(shared_model), "save", None)
    with pytest.raises(HubError, match="is not writable"):
        hdi.hub.publish(shared_model, "/proc/self/blood", card=card)


def test_revisions_of_folders(published_folder, home, query, expected):
    shutil.copytree(published_folder, home / "blood" / "v1")
    shared = hdi.hub.download(home / "blood", "v1")
    np.testing.assert_array_equal(shared.load().annotate(query).node_probabilities, expected)
    assert hdi.hub.download(home / "blood" / "v1", shared.digest).digest == shared.digest
    assert hdi.hub.download(home / "blood" / "v1", shared.digest[7:23]).digest == shared.digest
    with pytest.raises(ChecksumError, match=f"its revision is {shared.digest}"):
        hdi.hub.pull(home / "blood" / "v1", "sha256:" + "f" * 64)


@pytest.mark.parametrize("name", ["model.pt", "adata.h5ad", "_scvi_required_metadata.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_in_a_folder_raises(published_folder, home, name, damage):
    folder = shutil.copytree(published_folder, home / "blood")
    body = bytearray((folder / name).read_bytes())
    body[len(body) // 3] ^= 4
    if damage == "remove":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(body if damage == "flip" else body[:-1])
    with pytest.raises(ChecksumError, match=f"{name} (missing|not as published)"):
        hdi.hub.pull(folder)


@pytest.mark.parametrize("pinned", [True, False])
def test_random_damage_raises(published_folder, home, pinned):
    folder = shutil.copytree(published_folder, home / "blood")
    revision = hdi.hub.download(folder).digest if pinned else None
    rng = np.random.default_rng(0)
    paths = [path for path in sorted(folder.iterdir()) if path.name != "README.md"]
    for trial in range(150):
        path = paths[trial % len(paths)]
        whole = path.read_bytes()
        body = bytearray(whole)
        if rng.random() < 0.5:
            body[rng.integers(len(body))] ^= 1 << rng.integers(8)
        else:
            del body[rng.integers(len(body)) :]
        path.write_bytes(body)
        with pytest.raises(ChecksumError):
            hdi.hub.download(folder, revision)
        path.write_bytes(whole)
    hdi.hub.download(folder, revision)


def test_truncated_checksums_raise(published_folder, home):
    folder = shutil.copytree(published_folder, home / "blood")
    path = folder / "checksums.sha256"
    lines = path.read_bytes().splitlines(keepends=True)
    for n in range(len(lines)):
        path.write_bytes(b"".join(lines[:n]))
        with pytest.raises(ChecksumError, match="not complete"):
            hdi.hub.download(folder)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_the_list_is_one_of_sha256sum(published_folder):
    command = ["sha256sum", "--check", "--strict", "--quiet", "checksums.sha256"]
    done = subprocess.run(command, cwd=published_folder, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def upload(client, bucket, folder, key):
    for path in folder.iterdir():
        client.upload_file(str(path), bucket, f"{key}/{path.name}")


def test_a_bucket_that_refuses_or_is_empty(published_folder, bucket, home, monkeypatch):
    with pytest.raises(HubError, match=r"does not exist \(NoSuchKey\)"):
        hdi.hub.pull(f"s3://{bucket}/nothing")
    with pytest.raises(HubError, match=r"does not exist \(NoSuchBucket\)"):
        hdi.hub.pull("s3://no-such-bucket/blood")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"):
        hdi.hub.pull(f"s3://{bucket}/blood")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"no answer.*AWS_ENDPOINT_URL_S3"):
        hdi.hub.pull(f"s3://{bucket}/blood")


def test_incomplete_file_is_downloaded_again(published_folder, bucket, home):
    upload(boto3.client("s3"), bucket, published_folder, "blood")
    address = f"s3://{bucket}/blood"
    digest = hdi.hub.download(published_folder).digest
    parts = home / "cache" / "models" / quote(address, safe="") / "revisions"
    unfinished = parts / f"{quote(digest, safe='')}.part"
    unfinished.mkdir(parents=True)
    (unfinished / "model.pt").write_bytes((published_folder / "model.pt").read_bytes()[:-10])
    assert hdi.hub.download(address).revision == digest
    assert [path.name for path in parts.iterdir() if path.is_dir()] == [quote(digest, safe="")]


def test_downloads_at_one_time_share_the_cache(published_folder, bucket, home):
    upload(boto3.client("s3"), bucket, published_folder, "blood")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(hdi.hub.download, [f"s3://{bucket}/blood"] * 4))
    assert len(set(found)) == 1, "whoever comes second waits for the first"
    assert found[0].digest == hdi.hub.download(published_folder).digest
    assert len(list((home / "cache" / "models").glob("*/revisions/*/model.pt"))) == 1


@pytest.mark.slow
def test_concurrent_downloads_wait_for_each_other(published_folder, bucket, home):
    upload(boto3.client("s3"), bucket, published_folder, "blood")
    code = "import sys, hdeepinsight as hdi; print(hdi.hub.download(sys.argv[1]).digest)"
    command = [sys.executable, "-c", code, f"s3://{bucket}/blood"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate()[0].strip() for process in started}
    assert found == {hdi.hub.download(published_folder).digest}


def test_bucket_is_replaced_only_with_overwrite(shared_model, card, bucket, home):
    hdi.hub.publish(shared_model, f"s3://{bucket}/blood", card=card)
    with pytest.raises(HubError, match="overwrite=True"):
        hdi.hub.publish(shared_model, f"s3://{bucket}/blood", card=card)
    again = hdi.hub.publish(shared_model, f"s3://{bucket}/blood", card=card, overwrite=True)
    assert hdi.hub.download(f"s3://{bucket}/blood").digest == again.digest


def test_a_changed_byte_in_a_bucket_is_caught(published_folder, bucket, home):
    client = boto3.client("s3")
    upload(client, bucket, published_folder, "blood")
    body = bytearray((published_folder / "model.pt").read_bytes())
    body[99] ^= 1
    client.put_object(Bucket=bucket, Key="blood/model.pt", Body=bytes(body))
    with pytest.raises(ChecksumError, match=r"model\.pt .* another checksum"):
        hdi.hub.pull(f"s3://{bucket}/blood")


@pytest.mark.parametrize("kind", ["folder", "file", "s3", "http"])
def test_mirror_replaces_the_hub(
    published_folder, published, fake_hub, bucket, home, monkeypatch, query, expected, kind
):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_mayWriteEverything")
    mirror = home / "mirror"
    shutil.copytree(published_folder, mirror / "atlas" / "blood")
    upload(boto3.client("s3"), bucket, published_folder, "mirror/atlas/blood")
    places = {
        "folder": str(mirror),
        "file": mirror.as_uri(),
        "s3": f"s3://{bucket}/mirror",
        "http": fake_hub.url,
    }
    monkeypatch.setenv("HDEEPINSIGHT_MIRROR", places[kind])
    model = hdi.hub.pull("atlas/blood")
    np.testing.assert_array_equal(model.annotate(query).node_probabilities, expected)
    assert not [r for r in fake_hub.requests if "authorization" in r["headers"]]
    if kind in ("folder", "file"):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        hdi.hub.pull("atlas/blood")


def test_a_proxy_is_used(published, fake_hub, monkeypatch, query):
    from huggingface_hub.utils import close_session

    monkeypatch.setenv("HTTP_PROXY", fake_hub.url)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HF_ENDPOINT", "http://user:secret@hub.invalid")
    close_session()
    with pytest.raises(HubError) as caught:
        hdi.hub.pull("atlas/blood")
    close_session()
    # The proxy was requested the whole address, of a host that exists nowhere.
    assert fake_hub.asked("GET", "hub.invalid/api/models/atlas/blood")
    assert "secret" not in str(caught.value)


def test_published_folder_follows_the_umask(published_folder):
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE(published_folder.stat().st_mode) == 0o777 & ~umask


def test_a_missing_package_says_how_to_install_it(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"hdeepinsight\[hub\]"):
        hdi.hub.pull("atlas/blood")
    with pytest.raises(ImportError, match=r"hdeepinsight\[hub\]"):
        hdi.hub.list_models(where="hub")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ImportError, match=r"hdeepinsight\[hub\]"):
        hdi.hub.pull("s3://lab/blood")
