"""Public files: verification, caching and errors."""

import hashlib
import logging
import sys

import pytest

import hdeepinsight as hdi
from hdeepinsight.datasets import DatasetError, PublicFile, fetch, list_files

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(files, cache):
    files.contents["/data/cells.h5ad"] = CONTENT
    return f"{files.url}/data/cells.h5ad"


def test_a_file_is_fetched_once(url, files, cache):
    path = fetch(url, sha256=DIGEST)
    assert path.read_bytes() == CONTENT
    assert path.name == "cells.h5ad"
    assert path.is_relative_to(cache)
    assert fetch(url, sha256=f"sha256:{DIGEST.upper()}") == path
    assert files.requests == ["/data/cells.h5ad"]


def test_a_damaged_file_is_fetched_again(url, files):
    path = fetch(url, sha256=DIGEST)
    path.write_bytes(b"damaged")
    assert fetch(url, sha256=DIGEST).read_bytes() == CONTENT
    assert len(files.requests) == 2


@pytest.mark.parametrize("fault", ["truncate", 503])
def test_a_failed_transfer_is_retried(url, files, fault):
    files.faults = [fault]
    assert fetch(url, sha256=DIGEST).read_bytes() == CONTENT
    assert len(files.requests) == 2


def test_a_wrong_checksum_leaves_no_file(url, files, cache):
    with pytest.raises(DatasetError, match=r"not what was expected.*pass sha256=") as error:
        fetch(url, sha256="0" * 64)
    assert "\n" not in str(error.value)
    assert [p for p in cache.rglob("*") if p.is_file()] == []
    assert len(files.requests) == 3


@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["unknown", "known"])
def test_a_truncated_file_is_refused_whether_its_checksum_is_known_or_not(
    url, files, cache, sha256
):
    files.faults = ["truncate"] * 3
    with pytest.raises(DatasetError):
        fetch(url, sha256=sha256)
    assert [p for p in cache.rglob("*") if p.is_file()] == []


def test_the_error_for_a_missing_file_states_where_to_put_it(url, files, cache):
    with pytest.raises(DatasetError, match=r"status 404.*put the file at .*gone\.h5ad") as error:
        fetch(f"{files.url}/gone.h5ad")
    assert "\n" not in str(error.value)


def test_the_error_without_a_connection_is_one_sentence(url, files, cache):
    files.go_offline()
    with pytest.raises(DatasetError, match=r"could not be reached.*Connect and try again") as error:
        fetch(url)
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_without_a_connection_what_was_fetched_is_used(url, files):
    path = fetch(url, sha256=DIGEST)
    files.go_offline()
    assert fetch(url, sha256=DIGEST) == path


def test_an_unknown_checksum_is_remembered(url, files, caplog):
    with caplog.at_level(logging.WARNING, "hdeepinsight"):
        path = fetch(url)
    assert DIGEST in caplog.text
    assert path.with_name("cells.h5ad.sha256").read_text() == f"{DIGEST}\n"
    caplog.clear()
    assert fetch(url) == path
    assert caplog.text == ""
    assert len(files.requests) == 1


def test_a_file_that_changed_since_is_refused(url, files):
    path = fetch(url)
    path.unlink()
    files.contents["/data/cells.h5ad"] = b"something else"
    with pytest.raises(DatasetError, match="not what was expected"):
        fetch(url)


def test_a_file_put_there_by_hand_is_taken_if_it_is_right(url, files, cache):
    place = fetch(url, sha256=DIGEST)
    files.go_offline()
    moved = place.rename(place.with_name("moved"))
    place.write_bytes(moved.read_bytes())
    assert fetch(url, sha256=DIGEST) == place


def test_files_of_one_name_from_two_places_stay_apart(files, cache, tmp_path):
    files.contents = {"/a/x.h5": b"a", "/b/x.h5": b"b"}
    found = [fetch(f"{files.url}/{place}/x.h5", folder=tmp_path / "own") for place in "ab"]
    assert [path.read_bytes() for path in found] == [b"a", b"b"]
    assert all(path.is_relative_to(tmp_path / "own") for path in found)


def test_a_named_file_is_found_by_its_name(url, files, monkeypatch):
    named = PublicFile(name="cells", url=url, sha256=DIGEST)
    monkeypatch.setattr("hdeepinsight.datasets._fetch.FILES", {"cells": named})
    assert fetch("cells").read_bytes() == CONTENT
    assert "cells" in list_files().index


def test_an_archive_states_the_checksum(files, cache, monkeypatch):
    class Archive:
        def populate_registry(self, keeper):
            keeper.registry["cells.h5ad"] = f"md5:{hashlib.md5(CONTENT).hexdigest()}"

        def download_url(self, file_name):
            return f"{files.url}/{file_name}"

    monkeypatch.setattr("pooch.core.doi_to_repository", lambda *_, **__: Archive())
    monkeypatch.setattr("pooch.downloaders.doi_to_repository", lambda *_, **__: Archive())
    files.contents["/cells.h5ad"] = CONTENT
    assert fetch("doi:10.1/x/cells.h5ad").read_bytes() == CONTENT
    files.contents["/cells.h5ad"] = b"changed"
    with pytest.raises(DatasetError, match="not what was expected"):
        fetch("doi:10.1/y/cells.h5ad")


@pytest.mark.parametrize("name", ["pbmc3", "ftp://x/y", "https://x/", "", "../x"])
def test_unknown_files_are_refused(name):
    with pytest.raises(ValueError, match="There are pbmc3k"):
        fetch(name)


def test_a_close_name_is_suggested():
    with pytest.raises(ValueError, match="Did you mean 'pbmc3k'"):
        fetch("pbmc3")


def test_without_pooch_the_install_line_is_named(monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'pip install "hdeepinsight\[datasets\]"'):
        fetch("pbmc3k")


def test_every_named_file_says_where_it_is_from():
    table = hdi.datasets.list_files()
    assert (table[["url", "description", "license", "citation"]] != "").all(axis=None)
    known = table["sha256"].dropna()
    assert known.str.fullmatch("[0-9a-f]{64}").all()
    assert set(known.index) == {"pbmc3k", "cell_ontology"}
