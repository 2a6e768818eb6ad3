"""Damage is detected, and hostile files are refused without running or expanding them."""

import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight._archive import dump, parse
from hdeepinsight.models import ModelFileError, ModelFolder

PAYLOAD = {
    "model_state_dict": {
        "weight": torch.arange(600.0).reshape(20, 30),
        "flat": torch.arange(6).t(),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "mask": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "strided": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    },
    "var_names": [f"GENE{i}" for i in range(40)],
    "attr_dict": {
        "registry_": {"model_name": "Test", "none": None, "text": 'é\ud800\u2028"\\'},
        "numbers": [0, -1, 2**62, 0.1, float("nan"), float("-inf"), True],
        "indices_": np.arange(5),
        "deep": {"a": [{"b": [[]], "c": {}}]},
    },
}


def same(first, second) -> bool:
    """Equal values of equal types; tensors bit by bit, and NaN is NaN."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return first == second or (first != first and second != second)


@pytest.fixture
def folder(tmp_path) -> ModelFolder:
    folder = ModelFolder(tmp_path / "model")
    folder.write(PAYLOAD, {"adata.h5ad": write_reference})
    return folder


def write_reference(path: Path) -> None:
    path.write_bytes(b"counts" * 100)


def test_a_model_comes_back_as_it_was(folder):
    read = folder.read()
    assert same(read["attr_dict"]["numbers"], PAYLOAD["attr_dict"]["numbers"])
    assert read["attr_dict"]["registry_"] == PAYLOAD["attr_dict"]["registry_"]
    assert list(read["attr_dict"]) == list(PAYLOAD["attr_dict"])
    assert same(read["attr_dict"]["indices_"], torch.arange(5))
    for name, tensor in PAYLOAD["model_state_dict"].items():
        assert same(read["model_state_dict"][name], tensor)


def test_other_tools_read_the_file(folder):
    theirs = torch.load(folder.file("model.pt"), weights_only=True)
    read = folder.read()["model_state_dict"]
    assert list(theirs) == [
        SAVE_KEYS.MODEL_STATE_DICT_KEY,
        SAVE_KEYS.VAR_NAMES_KEY,
        SAVE_KEYS.ATTR_DICT_KEY,
        "sealed",
    ]
    assert all(torch.equal(theirs["model_state_dict"][name], read[name]) for name in read)
    listed = json.loads(folder.file("manifest.json").read_text())["parts"]
    for name, part in listed.items():
        content = folder.file(name).read_bytes()
        assert part == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert sorted(listed) == [SAVE_KEYS.ADATA_FNAME, SAVE_KEYS.MODEL_FNAME]


def test_the_same_payload_gives_the_same_bytes():
    assert dump(PAYLOAD) == dump(PAYLOAD)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One flipped bit, or one cut."""
    body = bytearray(content)
    if rng.random() < 0.5:
        body[rng.integers(len(body))] ^= 1 << rng.integers(8)
    else:
        del body[rng.integers(len(body)) :]
    return bytes(body)


def check_damage(folder: ModelFolder, n_trials: int, *, alone: bool) -> None:
    """Damage each file in turn, and expect an error."""
    if alone:  # as the hub of scvi-tools fetches it
        folder.file("manifest.json").unlink()
        folder.file("adata.h5ad").unlink()
    rng = np.random.default_rng(0)
    paths = sorted(folder.path.iterdir())
    unnoticed = []
    for trial in range(n_trials):
        path = paths[trial % len(paths)]
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, rng))
        try:
            folder.read()
            folder.reference()
        except ModelFileError:
            pass
        else:
            unnoticed.append((trial, path.name))
        path.write_bytes(whole)
    assert unnoticed == []
    folder.read()


@pytest.mark.parametrize("alone", [False, True])
def test_random_damage_is_found(folder, alone):
    check_damage(folder, 60, alone=alone)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_all_of_1000_random_damages_are_found(folder, alone):
    check_damage(folder, 1000, alone=alone)


def test_every_bit_of_the_last_bytes_is_guarded():
    """Checksum, its marker and the end of the archive: where a digest could come off unnoticed."""
    content = dump({"a": torch.arange(3.0)})
    for place in range(len(content) - 130, len(content)):
        for bit in range(8):
            body = bytearray(content)
            body[place] ^= 1 << bit
            with pytest.raises(ModelFileError):
                parse(bytes(body), "file")
        with pytest.raises(ModelFileError):
            parse(content[:place], "file")


def test_every_bit_of_a_manifest_is_guarded(folder):
    """Damage of the manifest, including its entry of the reference."""
    path = folder.file("manifest.json")
    content = path.read_bytes()

    def is_noticed() -> bool:
        try:
            folder.read()
            folder.reference()
        except ModelFileError:
            return True
        return False

    assert not is_noticed()
    for place in range(len(content)):
        for bit in range(8):
            body = bytearray(content)
            body[place] ^= 1 << bit
            path.write_bytes(body)
            assert is_noticed()
        path.write_bytes(content[:place])
        assert is_noticed()


def test_damage_is_found_before_anything_is_parsed(folder, monkeypatch):
    import hdeepinsight._model_folder as module

    monkeypatch.setattr(module, "parse", lambda *_: pytest.fail("parsed"))
    path = folder.file("model.pt")
    path.write_bytes(damaged(path.read_bytes(), np.random.default_rng(1)))
    with pytest.raises(
        ModelFileError, match=r"model\.pt is damaged.*not what manifest\.json lists"
    ):
        folder.read()


def test_parts_of_two_models_are_not_mixed(tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        payload = {"model_state_dict": {"w": torch.tensor([value])}}
        ModelFolder(tmp_path / name).write(payload)
    shutil.copy(tmp_path / "b" / "model.pt", tmp_path / "a" / "model.pt")
    with pytest.raises(ModelFileError, match=r"not what manifest\.json lists.*remove the list"):
        ModelFolder(tmp_path / "a").read()
    (tmp_path / "a" / "manifest.json").unlink()
    assert ModelFolder(tmp_path / "a").read()["model_state_dict"]["w"] == 2


def test_a_missing_part_is_reported(folder):
    folder.file("model.pt").unlink()
    with pytest.raises(ModelFileError, match=r"model\.pt is damaged: It is missing"):
        folder.read()
    folder.file("adata.h5ad").unlink()
    with pytest.raises(ModelFileError, match=r"adata\.h5ad is damaged: It is missing"):
        folder.reference()


def test_a_reference_beside_the_model_that_it_does_not_list_is_not_its_own(tmp_path):
    ModelFolder(tmp_path).write(PAYLOAD)
    write_reference(tmp_path / "adata.h5ad")
    assert ModelFolder(tmp_path).reference() is None
    (tmp_path / "manifest.json").unlink()
    assert ModelFolder(tmp_path).reference() == tmp_path / "adata.h5ad"


# Hostile files. A digest, where there is one, fits: it guards against accidents, not intent.


@pytest.fixture
def bounded():
    """Limit further memory, so that expanding files fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, before[1]))
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert peak < 64 * 2**20, f"{peak / 2**20:.0f} MB"


def archive(program: bytes, records=(), *, top="archive", packed=()) -> bytes:
    """An archive of PyTorch with any pickle inside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(f"{top}/data.pkl", program)
        for name, content in records:
            how = zipfile.ZIP_DEFLATED if name in packed else zipfile.ZIP_STORED
            file.writestr(f"{top}/{name}", content, how)
        file.writestr(f"{top}/version", "3\n")
    return buffer.getvalue()


class Call:
    """Pickled as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class StorageReference:
    """Pickled as PyTorch refers to a storage."""

    def __init__(self, n_elements, kind=torch.FloatStorage, key="0"):
        self.reference = "storage", kind, key, "cpu", n_elements


def pickled(value: object) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return item.reference if isinstance(item, StorageReference) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def tensor(n_elements, offset, size, stride):
    from collections import OrderedDict

    storage = StorageReference(n_elements)
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, storage, offset, size, stride, False, OrderedDict())


def one_tensor(*arguments) -> bytes:
    return archive(pickled({"w": tensor(*arguments)}), [("data/0", b"\0" * 16)])


def nested(depth: int) -> bytes:
    return b"\x80\x02}X\x01\0\0\0a" + b"]" * depth + b"a" * (depth - 1) + b"s."


def laughs() -> bytes:
    """Forty lists, each of which holds the one before twice: 2^40 items to walk over."""
    value: list = []
    for _ in range(40):
        value = [value, value]
    return pickled({"a": value})


def cycle() -> bytes:
    value: list = []
    value.append(value)
    return pickled({"a": value})


HUGE = 10**12
HOSTILE = {
    "runs_a_command": (archive(pickled({"a": Call(os.mkdir, "it_ran")})), r"posix\.mkdir"),
    "runs_a_command_protocol_4": (
        archive(pickle.dumps({"a": Call(os.mkdir, "it_ran")}, 4)),
        r"posix\.mkdir",
    ),
    "bare_pickle": (pickle.dumps({"a": Call(os.mkdir, "it_ran")}), "no archive of PyTorch"),
    "builtin": (archive(pickled({"a": Call(eval, "1")})), r"eval"),
    "numpy_array": (archive(pickled({"a": np.zeros(2)})), r"found numpy.*_reconstruct"),
    "state_of_an_object": (archive(b"\x80\x02}}b."), "pickle instruction b'b'"),
    "registered_extension": (archive(b"\x80\x02\x82\x01."), "pickle instruction b"),
    "call_of_a_storage_class": (
        archive(b"\x80\x02ctorch\nFloatStorage\n)R."),
        "damaged",
    ),
    "tensor_beyond_its_storage": (one_tensor(4, 0, (HUGE,), (1,)), "1,000,000,000,000 elements"),
    "tensor_that_repeats_one_number": (one_tensor(4, 0, (HUGE,), (0,)), "1,000,000,000,000 elem"),
    "tensor_that_starts_outside": (one_tensor(4, 9, (2,), (1,)), "declares 2 elements"),
    "tensor_with_a_huge_step": (one_tensor(4, 0, (2,), (HUGE,)), "declares 2 elements"),
    "tensor_of_negative_size": (one_tensor(4, 0, (-2,), (1,)), "impossible shape"),
    "tensor_of_a_thousand_dimensions": (
        one_tensor(4, 0, (2,) * 1000, (0,) * 1000),
        "impossible shape",
    ),
    "storage_beyond_its_record": (one_tensor(HUGE, 0, (4,), (1,)), "declares 4,000,000,000,000"),
    "storage_without_record": (
        archive(pickled({"w": tensor(4, 0, (4,), (1,))})),
        "damaged",
    ),
    "zip_bomb": (
        archive(pickled({}), [("data/0", b"\0" * 2**28)], packed=["data/0"]),
        "a compressed file of 268,435,456 bytes",
    ),
    "path_traversal": (archive(pickled({}), [("../../evil", b"x")]), "a file named"),
    "path_traversal_at_the_top": (archive(pickled({}), top=".."), "a file named"),
    "absolute_path": (archive(pickled({}), top="/etc"), "a file named"),
    "torchscript": (archive(pickled({}), [("constants.pkl", b"x")]), "a file named"),
    "nested_lists": (archive(nested(10**5)), "nested more than 64"),
    "billion_laughs": (archive(laughs()), "one container in two places"),
    "cycle": (archive(cycle()), "one container in two places"),
    "memo_of_a_huge_index": (archive(b"\x80\x02}r\xff\xff\xff\x7f."), "not a model|no model|$^"),
    "endless_text": (archive(b"\x80\x02X\xff\xff\xff\x7fabc."), "damaged"),
    "endless_number": (archive(b"\x80\x02\x8b\xff\xff\xff\x7f\x01."), "pickle instruction b"),
    "no_pickle": (archive(b"hello"), "damaged"),
    "empty_pickle": (archive(b""), "damaged"),
    "empty_stack": (archive(b"\x80\x02a."), "damaged"),
    "a_number": (archive(b"\x80\x02K\x01."), "holds a int"),
    "keys_that_are_no_text": (archive(pickled({1: 2})), "keys are not text"),
    "no_archive": (b"hello", "no archive of PyTorch"),
    "empty": (b"", "no archive of PyTorch"),
    "html": (b"<html>404</html>", "no archive of PyTorch"),
    "archive_without_model": (archive(b"")[:4] + b"\0" * 100, "damaged"),
    "odd_escape": (archive(b"\x80\x02c\\X\nsystem\n."), "system"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_torch_files(name, bounded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, says = HOSTILE[name]
    if name == "memo_of_a_huge_index":
        assert parse(content, "file") == {}
    else:
        with pytest.raises(ModelFileError, match=says):
            parse(content, "file")
    assert list(tmp_path.iterdir()) == [], "something was run"


def test_entries_that_claim_more_than_the_file_holds():
    content = bytearray(archive(pickled({}), [("data/0", b"\0" * 8)]))
    claim = struct.pack("<II", 2**31, 2**31)
    place = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    content[place + 20 : place + 28] = claim
    with pytest.raises(ModelFileError, match="2,147,48"):
        parse(bytes(content), "file")


GOOD = {"bytes": 3, "sha256": "0" * 64}
ABC = hashlib.sha256(b"abc").hexdigest()


def manifest(parts: object) -> bytes:
    """A valid manifest with other entries."""
    body = '{\n"format": "hdeepinsight.manifest",\n"container_version": 1,\n"parts": '
    body += f'{json.dumps(parts)},\n"sha256": "'
    return f'{body}{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'.encode()


def test_hostile_manifests(tmp_path_factory, bounded):
    for parts in [
        {"../model.pt": GOOD},
        {"/etc/passwd": GOOD, "model.pt": GOOD},
        {"model.pt": GOOD, "x/model.json": GOOD},
        {},
        {"adata.h5ad": GOOD},
        {"model.json": GOOD},
        {"model.pt": {}},
        {"model.pt": {"bytes": "3", "sha256": "0" * 64}},
        {"model.pt": {"bytes": 3.0, "sha256": "0" * 64}},
        {"model.pt": {"bytes": 3, "sha256": "0"}},
        {"model.pt": {"bytes": 3, "sha256": ABC, "more": 1}},
        {"model.pt": 3},
        [],
        [["model.pt", GOOD]],
        None,
        {str(i): GOOD for i in range(10**4)},
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        (tmp_path / "model.pt").write_bytes(b"abc")
        (tmp_path / "manifest.json").write_bytes(manifest(parts))
        with pytest.raises(ModelFileError, match=r"damaged|no model"):
            ModelFolder(tmp_path).read()


def test_files_that_are_not_manifests(tmp_path_factory, bounded):
    for content in [
        b'{"parts": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        b'{"parts":' * 10**5,
        b"9" * 10**6,
        b'"\\' * 10**5,
        b"\xff\xfe\0",
        b"",
        b"[]",
        b'{"parts": {"model.pt": {"bytes": 3, "sha256": "' + ABC.encode() + b'"}}}',
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        (tmp_path / "model.pt").write_bytes(b"abc")
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(ModelFileError, match=r"manifest\.json is damaged.*not the list"):
            ModelFolder(tmp_path).read()


def test_a_manifest_with_a_wrong_size(tmp_path_factory):
    for size in [0, 2, HUGE, -1]:
        tmp_path = tmp_path_factory.mktemp("case")
        (tmp_path / "model.pt").write_bytes(b"abc")
        parts = {"model.pt": {"bytes": size, "sha256": ABC}}
        (tmp_path / "manifest.json").write_bytes(manifest(parts))
        with pytest.raises(ModelFileError, match=r"model\.pt is damaged.*(not what|at most)"):
            ModelFolder(tmp_path).read()


# Files that never end, or are larger than they are.


def sparse(path: Path, n_bytes: int) -> None:
    """A sparse file of zeros."""
    with path.open("wb") as file:
        file.truncate(n_bytes)


ENDLESS = {
    "fifo": os.mkfifo,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "random": lambda path: path.symlink_to("/dev/urandom"),
    "loop": lambda path: path.symlink_to(path.name),
    "sparse": lambda path: sparse(path, 4 * 10**12),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)),
}


@pytest.fixture
def at_once():
    """Fail if something blocks or reads indefinitely."""

    def too_late(*_):
        pytest.fail("took more than 5 seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("name", ["manifest.json", "model.pt", "adata.h5ad"])
def test_files_without_an_end_are_refused_at_once(
    folder, name, kind, listed, at_once, bounded, monkeypatch
):
    monkeypatch.chdir(folder.path)  # the path of a socket may have a hundred letters
    path = folder.file(name)
    if not listed:
        folder.file("manifest.json").unlink()
    path.unlink(missing_ok=True)
    ENDLESS[kind](path)
    if name == "adata.h5ad" and not listed and kind in ("sparse", "loop"):
        folder.reference()  # what reads it looks at its content; a link to nowhere is nothing
        return
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        folder.reference() if name == "adata.h5ad" else folder.read()


def test_a_model_that_is_as_large_as_its_manifest_says_is_refused_all_the_same(
    folder, at_once, bounded
):
    sparse(folder.file("model.pt"), 4 * 10**12)
    parts = {"model.pt": {"bytes": 4 * 10**12, "sha256": ABC}}
    folder.file("manifest.json").write_bytes(manifest(parts))
    with pytest.raises(ModelFileError, match=r"model\.pt is damaged.*at most 4,294,967,296"):
        folder.read()


def test_a_manifest_of_three_gigabytes_is_not_read(folder, at_once, bounded):
    sparse(folder.file("manifest.json"), 3 * 2**30)
    for read in (folder.read, folder.reference):
        with pytest.raises(ModelFileError, match=r"manifest\.json.*at most 4,194,304 bytes"):
            read()


def test_a_prefix_stays_in_the_folder(tmp_path):
    for prefix in ["../", "a/b", "..", "a\\b", "a\0"]:
        with pytest.raises(ValueError, match=re.escape(repr(prefix))):
            ModelFolder(tmp_path, prefix)


def test_fuzzed_pickles_are_read_or_refused():
    """Random edits of real pickles, with correct archives around them: no other error, no hang."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(dump(PAYLOAD))) as file:
        names = [name.split("/", 1)[1] for name in file.namelist()]
        parts = {name: file.read(f"archive/{name}") for name in names}
    program = parts.pop("data.pkl")
    records = [item for item in parts.items() if item[0] != "version"]
    for _ in range(fuzz_trials()):
        body = bytearray(program)
        for _ in range(rng.integers(1, 4)):
            body[rng.integers(len(body))] = rng.integers(256)
        try:
            parse(archive(bytes(body), records), "file")
        except ModelFileError:
            continue


def fuzz_trials() -> int:
    return int(os.environ.get("HDI_FUZZ_TRIALS", "300"))


def test_the_digest_is_the_comment_of_an_archive_that_any_tool_reads():
    content = dump({"a": 1})
    assert content[-84:-64] == b"hdeepinsight sha256 "
    assert hashlib.sha256(content[:-64]).hexdigest().encode() == content[-64:]
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert file.testzip() is None
        assert file.comment == content[-84:]
