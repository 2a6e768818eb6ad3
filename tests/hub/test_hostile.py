"""Answers, lists and cards that are made to harm."""

import time
from types import SimpleNamespace

import pytest

from hdeepinsight.hub import ChecksumError, HubError, SharedModel
from hdeepinsight.hub._hub_source import _commit, _file, explained
from hdeepinsight.hub._list import _tags_of_card
from hdeepinsight.hub._manifest import parse_checksums
from hdeepinsight.hub._reference import ReferenceBundle


def checksums(*names: str) -> bytes:
    lines = [f"{'0' * 64}  {name}" for name in names]
    return "\n".join([f"# {len(names)} files of a model of hdeepinsight", *lines, ""]).encode()


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["model.pt", "MODEL.PT"], id="one_file_where_case_means_nothing"),
        pytest.param(["model.pt", "model.pt"], id="twice"),
        pytest.param(["model.pt.part"], id="name_of_an_unfinished_download"),
        pytest.param(["con"], id="device_of_windows"),
        pytest.param(["NUL.txt"], id="device_with_an_ending"),
        pytest.param(["a."], id="final_dot"),
        pytest.param(["a", "a/b"], id="file_and_folder"),
        pytest.param(["a\u202eb"], id="writing_direction"),
        pytest.param(["a\\..\\b"], id="backslashes"),
        pytest.param(["C:x"], id="drive"),
        pytest.param(["a\0b"], id="zero_byte"),
    ],
)
def test_names_that_no_folder_can_hold_are_refused(names):
    with pytest.raises(ChecksumError, match=r"plain file name|as a folder"):
        parse_checksums(checksums(*names), source="a hub")


@pytest.mark.parametrize("found", ["..", "../../x", "", None, "main", "g" * 40, "0" * 500, "0/0"])
def test_a_commit_that_is_no_hash_names_no_folder(found):
    with (
        pytest.raises(HubError, match=r"not understood \(it names the commit"),
        explained("fetch it", "http://hub.invalid"),
    ):
        _commit(found)


@pytest.mark.parametrize(
    ("name", "size"), [("a", -1), ("a", "3"), ("a", 1.5), ("a", True), (None, 3)]
)
def test_sizes_and_names_of_another_kind_are_refused(name, size):
    with (
        pytest.raises(HubError, match=r"not understood \(it lists"),
        explained("fetch it", "http://hub.invalid"),
    ):
        _file(SimpleNamespace(rfilename=name, size=size, lfs=None))


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
def test_the_header_of_a_card_is_read_within_bounds(header, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n")
    began = time.process_time()
    assert tuple(_tags_of_card(tmp_path / "README.md")) == ()
    assert time.process_time() - began < 3
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_card_is_shown_whatever_its_bytes(tmp_path):
    (tmp_path / "README.md").write_bytes(b"<script>\xff</script>")
    shared = SharedModel("a/b", "0" * 40, tmp_path)
    assert shared.card == "<script>\ufffd</script>"


def test_metadata_of_absurd_depth_is_no_model(tmp_path):
    (tmp_path / "_scvi_required_metadata.json").write_text("[" * 10**6)
    with pytest.raises(HubError, match="nothing that says which model it is"):
        SharedModel("a/b", "0" * 40, tmp_path).load()


def test_a_reference_bundle_does_not_read_other_files(published_folder, tmp_path):
    import h5py

    path = tmp_path / "adata.h5ad"
    path.write_bytes((published_folder / "adata.h5ad").read_bytes())
    assert len(ReferenceBundle.read(path)) > 0
    with h5py.File(path, "r+") as file:
        bundle = next(group for group in file["uns"].values() if "taxonomy" in group)
        del bundle["taxonomy"]
        bundle["taxonomy"] = "/etc/hostname"
        bundle["taxonomy"].attrs.update({"encoding-type": "string", "encoding-version": "0.2.0"})
    with pytest.raises(HubError, match="no reference bundle"):
        ReferenceBundle.read(path)
    with h5py.File(path, "r+") as file:
        file["obsm/other"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(HubError, match="no reference bundle"):
        ReferenceBundle.read(path)
