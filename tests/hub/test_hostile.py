"""Hostile answers, lists and cards."""

import json
import os
import shutil
import time

import boto3
import pytest

import hdeepinsight as hdi
from hdeepinsight.hub import ChecksumError, HubError, SharedModel

LISTS = ["checksums.sha256", "README.md"]


def checksums(*names: str) -> bytes:
    lines = [f"{'0' * 64}  {name}" for name in names]
    return "\n".join([f"# {len(names)} files of a model of hdeepinsight", *lines, ""]).encode()


def test_invalid_names_raise(tmp_path_factory):
    for names in [
        ["model.pt", "MODEL.PT"],
        ["model.pt", "model.pt"],
        ["model.pt.part"],
        ["con"],
        ["NUL.txt"],
        ["a."],
        ["a", "a/b"],
        ["a\u202eb"],
        ["a\\..\\b"],
        ["C:x"],
        ["a\0b"],
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        (tmp_path / "checksums.sha256").write_bytes(checksums(*names))
        with pytest.raises(ChecksumError, match="plain file name"):
            hdi.hub.pull(tmp_path)


def answered(fake_hub, monkeypatch, **changes):
    """Let the hub describe the model otherwise."""
    from loopback.pages import Pages

    reply = Pages.reply

    def changed(page, status=200, body=b"", **headers):
        if isinstance(body, dict) and "siblings" in body:
            body = json.dumps({**body, **changes}).encode()
        return reply(page, status, body, **headers)

    monkeypatch.setattr(Pages, "reply", changed)


@pytest.mark.parametrize("found", ["..", "../../x", "", None, "main", "g" * 40, "0" * 500, "0/0"])
def test_commit_must_be_a_hash(published, fake_hub, home, monkeypatch, found):
    answered(fake_hub, monkeypatch, sha=found)
    with pytest.raises(HubError, match=r"unexpected answer \(ValueError: invalid commit"):
        hdi.hub.pull("atlas/blood")
    assert not list(home.rglob("model.pt"))


@pytest.mark.parametrize(
    ("name", "size"), [("a", -1), ("a", "3"), ("a", 1.5), ("a", True), ("a", [3])]
)
def test_invalid_sizes_and_names_raise(published, fake_hub, monkeypatch, name, size):
    answered(fake_hub, monkeypatch, siblings=[{"rfilename": name, "size": size}])
    with pytest.raises(HubError, match=r"unexpected answer \(ValueError: invalid file sizes"):
        hdi.hub.pull("atlas/blood")


@pytest.mark.parametrize("name", LISTS)
def test_a_list_or_card_of_three_gigabytes_in_a_folder_is_not_read(published_folder, home, name):
    folder = shutil.copytree(published_folder, home / "blood")
    os.truncate(folder / name, 3 * 2**30)  # sparse: it takes no room
    began = time.process_time()
    with pytest.raises(HubError, match=r"regular file of at most 4,194,304 bytes"):
        print(len(hdi.hub.download(folder).card))
    assert time.process_time() - began < 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "loop"])
@pytest.mark.parametrize("name", [*LISTS, "model.pt", "adata.h5ad"])
def test_special_files_raise_at_once(published_folder, home, name, kind):
    folder = shutil.copytree(published_folder, home / "blood")
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "directory":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "device" else name)
    with pytest.raises(HubError, match=r"regular file|missing|No published model"):
        print(len(hdi.hub.download(folder).card))


def test_a_model_file_of_four_terabytes_is_not_read(published_folder, home):
    folder = shutil.copytree(published_folder, home / "blood")
    try:
        os.truncate(folder / "model.pt", 4 * 2**40)
    except OSError:
        os.truncate(folder / "model.pt", 6 * 2**30)
    with pytest.raises(HubError, match=r"at most 5,368,709,120 bytes"):
        hdi.hub.download(folder)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_or_card_in_a_bucket_is_read_up_to_its_limit(published_folder, bucket, home, name):
    client = boto3.client("s3")
    for path in published_folder.iterdir():
        client.upload_file(str(path), bucket, f"blood/{path.name}")
    client.put_object(Bucket=bucket, Key=f"blood/{name}", Body=b"# " * (5 * 2**19))
    with pytest.raises(HubError, match="at most 4,194,304 bytes"):
        hdi.hub.pull(f"s3://{bucket}/blood")
    assert not list(home.rglob("model.pt"))


@pytest.mark.parametrize("name", LISTS)
def test_a_list_or_card_on_a_hub_is_not_fetched_beyond_its_limit(published, fake_hub, home, name):
    repository = fake_hub.repositories["atlas/blood"]
    files = dict(repository.commits[published.revision])
    repository.commit("main", {**files, name: b"# " * (5 * 2**19)})
    with pytest.raises(HubError, match="at most 4,194,304 bytes"):
        hdi.hub.pull("atlas/blood")
    assert not list(home.rglob("model.pt"))


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://127.0.0.1:9/x", "//", "loop"]
)
def test_the_token_follows_no_redirect_to_another_place(
    published, fake_hub, writer, home, monkeypatch, target
):
    from loopback.pages import Pages

    def elsewhere(page, name, revision, path):
        here = f"{fake_hub.url}/{name}/resolve/{revision}/{path}"
        return page.reply(
            302, Location=here if target == "loop" else target, X_Repo_Commit=revision
        )

    monkeypatch.setattr(Pages, "resolve", elsewhere)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(HubError) as caught:
        hdi.hub.pull("atlas/blood", token=writer)
    assert writer not in str(caught.value)
    assert not list(home.rglob("model.pt"))


def test_the_token_is_not_sent_to_another_port(published, fake_hub, writer, query):
    hdi.hub.pull("atlas/blood", token=writer)
    there = fake_hub.cdn.rpartition(":")[2]
    sent = [r["headers"] for r in fake_hub.requests if r["headers"]["host"].endswith(there)]
    assert sent
    assert not [headers for headers in sent if "authorization" in headers]


def doubled(n: int) -> str:
    """Merges of merges: in YAML 2^n entries."""
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, n)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(doubled(40), id="merges"),
        pytest.param("tags: &a [*a]", id="cycle"),
        pytest.param("tags: " + "[" * 10**5, id="nesting"),
        pytest.param("tags: " + "[" * 300 + "]" * 300, id="closed_nesting"),
        pytest.param("tags: [" + "a, " * 10**6 + "]", id="length"),
        pytest.param("!!python/object/apply:os.mkdir [it_ran]", id="object"),
        pytest.param("tags: " + "1" * 5000, id="number"),
        pytest.param("{", id="broken"),
    ],
)
def test_the_header_of_a_card_is_read_within_bounds(header, home, monkeypatch):
    monkeypatch.chdir(home)
    folder = home / "mirror" / "atlas" / "blood"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\n{header}\n---\n")
    monkeypatch.setenv("HDEEPINSIGHT_MIRROR", str(home / "mirror"))
    began = time.process_time()
    row = hdi.hub.list_models(where="hub").loc[0].tolist()
    assert row == ["atlas/blood", "hub", "", "", "", "", ""]
    assert time.process_time() - began < 3
    assert [path.name for path in home.iterdir()] == ["mirror"]


def test_card_of_any_bytes_is_shown(tmp_path):
    (tmp_path / "README.md").write_bytes(b"<script>\xff</script>")
    shared = SharedModel("a/b", "0" * 40, tmp_path)
    assert shared.card == "<script>\ufffd</script>"
