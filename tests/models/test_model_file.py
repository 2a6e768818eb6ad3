"""Every byte counts: damage is found, hostile files are refused, nothing is run or unfolded."""

import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hdeepinsight.models import ModelFileError
from hdeepinsight.models._file._json import dump_json, parse_json
from hdeepinsight.models._file._manifest import Manifest, Part
from hdeepinsight.models._file._tensor_file import dump_tensors, parse_tensors
from hdeepinsight.models._file._torch_file import dump_torch, parse_torch
from hdeepinsight.models._model_file import ModelFolder, read_model, write_model

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


@pytest.fixture(params=["torch", "safetensors"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path, kind) -> ModelFolder:
    folder = ModelFolder(tmp_path / "model")
    write_model(folder, PAYLOAD, format=kind, references={"adata.h5ad": write_reference})
    return folder


def write_reference(path: Path) -> None:
    path.write_bytes(b"counts" * 100)


def test_both_formats_hold_the_same(tmp_path):
    read = []
    for kind in ("torch", "safetensors"):
        write_model(ModelFolder(tmp_path / kind), PAYLOAD, format=kind)
        read.append(read_model(ModelFolder(tmp_path / kind)))
    assert same(*read)
    assert same(read[0]["attr_dict"]["numbers"], PAYLOAD["attr_dict"]["numbers"])
    assert read[0]["attr_dict"]["registry_"] == PAYLOAD["attr_dict"]["registry_"]
    for name, tensor in PAYLOAD["model_state_dict"].items():
        assert same(read[0]["model_state_dict"][name], tensor)


def test_other_tools_read_the_weights(tmp_path):
    from safetensors.torch import load_file

    write_model(ModelFolder(tmp_path / "a"), PAYLOAD)
    write_model(ModelFolder(tmp_path / "b"), PAYLOAD, format="safetensors")
    ours = torch.load(tmp_path / "a" / "model.pt", weights_only=True)["model_state_dict"]
    theirs = load_file(tmp_path / "b" / "model.safetensors")
    assert set(theirs) == {*ours, "attr_dict/indices_"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    json.loads((tmp_path / "b" / "model.json").read_text(), parse_constant=pytest.fail)


def test_the_same_payload_gives_the_same_bytes():
    assert dump_torch(PAYLOAD) == dump_torch(PAYLOAD)
    assert dump_tensors(PAYLOAD) == dump_tensors(PAYLOAD)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One flipped bit, or one cut."""
    body = bytearray(content)
    if rng.random() < 0.5:
        body[rng.integers(len(body))] ^= 1 << rng.integers(8)
    else:
        del body[rng.integers(len(body)) :]
    return bytes(body)


def check_damage(folder: ModelFolder, n_trials: int, *, alone: bool) -> None:
    """Damage one file after the other, and expect every single one to be found."""
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
            read_model(folder)
            folder.reference()
        except ModelFileError:
            pass
        else:
            unnoticed.append((trial, path.name))
        path.write_bytes(whole)
    assert unnoticed == []
    read_model(folder)


@pytest.mark.parametrize("alone", [False, True])
def test_random_damage_is_found(folder, alone):
    check_damage(folder, 60, alone=alone)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_all_of_1000_random_damages_are_found(folder, alone):
    check_damage(folder, 1000, alone=alone)


def test_every_bit_of_the_last_bytes_is_guarded():
    """Checksum, its marker and the end of the archive: where a seal could come off unnoticed."""
    content = dump_torch({"a": torch.arange(3.0)})
    for place in range(len(content) - 130, len(content)):
        for bit in range(8):
            body = bytearray(content)
            body[place] ^= 1 << bit
            with pytest.raises(ModelFileError):
                parse_torch(bytes(body), "file")
        with pytest.raises(ModelFileError):
            parse_torch(content[:place], "file")


def test_every_bit_of_a_manifest_is_guarded():
    content = Manifest({"model.pt": Part(3, "0" * 64)}).dump()
    assert Manifest.parse(content, "file").format == "torch"
    for place in range(len(content)):
        for bit in range(8):
            body = bytearray(content)
            body[place] ^= 1 << bit
            with pytest.raises(ModelFileError):
                Manifest.parse(bytes(body), "file")
        with pytest.raises(ModelFileError):
            Manifest.parse(content[:place], "file")


def test_damage_is_found_before_anything_is_parsed(folder, kind, monkeypatch):
    import hdeepinsight.models._model_file as module

    def never(*_):
        pytest.fail("parsed")

    monkeypatch.setattr(module, "parse_torch", never)
    monkeypatch.setattr(module, "parse_tensors", never)
    path = folder.file("model.pt" if kind == "torch" else "model.safetensors")
    path.write_bytes(damaged(path.read_bytes(), np.random.default_rng(1)))
    with pytest.raises(ModelFileError, match=r"model\.(pt|safetensors) is different.*manifest"):
        read_model(folder)


def test_parts_of_two_models_are_not_mixed(tmp_path, kind):
    for name, value in (("a", 1.0), ("b", 2.0)):
        payload = {"model_state_dict": {"w": torch.tensor([value])}}
        write_model(ModelFolder(tmp_path / name), payload, format=kind)
    weights = "model.pt" if kind == "torch" else "model.safetensors"
    shutil.copy(tmp_path / "b" / weights, tmp_path / "a" / weights)
    with pytest.raises(ModelFileError, match=r"not what manifest\.json lists"):
        read_model(ModelFolder(tmp_path / "a"))
    (tmp_path / "a" / "manifest.json").unlink()
    if kind == "safetensors":
        with pytest.raises(ModelFileError, match="of another model"):
            read_model(ModelFolder(tmp_path / "a"))


def test_a_missing_part_is_named(folder, kind):
    folder.file("model.pt" if kind == "torch" else "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model\.(pt|safetensors) is missing"):
        read_model(folder)


def test_a_reference_beside_the_model_that_it_does_not_list_is_not_its_own(tmp_path):
    write_model(ModelFolder(tmp_path), PAYLOAD)
    write_reference(tmp_path / "adata.h5ad")
    assert ModelFolder(tmp_path).reference() is None
    (tmp_path / "manifest.json").unlink()
    assert ModelFolder(tmp_path).reference() == tmp_path / "adata.h5ad"


# Hostile files. All are sealed as ours are: a checksum guards against accidents, not intent.


@pytest.fixture
def bounded():
    """A hard limit on further memory, so that what unfolds fails instead of filling the machine."""
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
    """Pickled as a call of any function."""

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
    "bare_pickle": (pickle.dumps({"a": Call(os.mkdir, "it_ran")}), r"names posix\.mkdir"),
    "builtin": (archive(pickled({"a": Call(eval, "1")})), r"eval"),
    "numpy_array": (archive(pickled({"a": np.zeros(2)})), r"numpy.*_reconstruct"),
    "state_of_an_object": (archive(b"\x80\x02}}b."), "instruction BUILD"),
    "registered_extension": (archive(b"\x80\x02\x82\x01."), "instruction EXT1"),
    "call_of_a_storage_class": (
        archive(b"\x80\x02ctorch\nFloatStorage\n)R."),
        "call of torch FloatStorage",
    ),
    "tensor_beyond_its_storage": (one_tensor(4, 0, (HUGE,), (1,)), "1,000,000,000,000 elements"),
    "tensor_that_repeats_one_number": (one_tensor(4, 0, (HUGE,), (0,)), "1,000,000,000,000 elem"),
    "tensor_that_starts_outside": (one_tensor(4, 9, (2,), (1,)), "declares 2 elements"),
    "tensor_with_a_huge_step": (one_tensor(4, 0, (2,), (HUGE,)), "declares 2 elements"),
    "tensor_of_negative_size": (one_tensor(4, 0, (-2,), (1,)), "shape that is none"),
    "tensor_of_a_thousand_dimensions": (
        one_tensor(4, 0, (2,) * 1000, (0,) * 1000),
        "shape that is none",
    ),
    "storage_beyond_its_record": (one_tensor(HUGE, 0, (4,), (1,)), "declares 4,000,000,000,000"),
    "storage_without_record": (
        archive(pickled({"w": tensor(4, 0, (4,), (1,))})),
        "damaged",
    ),
    "zip_bomb": (
        archive(pickled({}), [("data/0", b"\0" * 2**28)], packed=["data/0"]),
        "a packed file of 268,435,456 bytes",
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
    "endless_number": (archive(b"\x80\x02\x8b\xff\xff\xff\x7f\x01."), "damaged|LONG4"),
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
        assert parse_torch(content, "file") == {}
    else:
        with pytest.raises(ModelFileError, match=says):
            parse_torch(content, "file")
    assert list(tmp_path.iterdir()) == [], "something was run"


def test_entries_that_claim_more_than_the_file_holds():
    content = bytearray(archive(pickled({}), [("data/0", b"\0" * 8)]))
    claim = struct.pack("<II", 2**31, 2**31)
    place = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    content[place + 20 : place + 28] = claim
    with pytest.raises(ModelFileError, match="2,147,48"):
        parse_torch(bytes(content), "file")


def tensors(header: dict, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def described(model: object, weights: bytes) -> bytes:
    from hdeepinsight.models._file._seal import sha256

    record = {"format": "hdeepinsight.model", "container_version": 1}
    return dump_json(record | {"weights_sha256": sha256(weights), "model": model})


def entry(size: int, end: int) -> dict:
    return {"w": {"dtype": "F32", "shape": [size], "data_offsets": [0, end]}}


HOSTILE_TENSORS = {
    "more_elements_than_bytes": tensors(entry(HUGE, 4 * HUGE), b"\0" * 16),
    "more_elements_than_declared_bytes": tensors(entry(HUGE, 16), b"\0" * 16),
    "overflow": tensors(entry(2**63, 16), b"\0" * 16),
    "endless_header": struct.pack("<Q", 2**60) + b"{}",
    "nested_header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "empty": b"",
}


@pytest.mark.parametrize("name", HOSTILE_TENSORS)
def test_hostile_safetensors_files(name, bounded):
    weights = HOSTILE_TENSORS[name]
    with pytest.raises(ModelFileError, match="damaged or incomplete"):
        parse_tensors(weights, described({"w": {"__tensor__": "w"}}, weights), "folder")


def deep(depth: int) -> bytes:
    return b'{"format": "hdeepinsight.model", "model": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(deep(10**5), "nested more than 64", id="nested_lists"),
        pytest.param(deep(10**5)[: 10**5], "nested more than 64", id="nested_and_cut"),
        pytest.param(b'{"a":' * 10**5, "nested more than 64", id="nested_mappings"),
        pytest.param(b"[" * 60, "no JSON", id="brackets"),
        pytest.param(b"9" * 10**6, "no JSON", id="endless_number"),
        pytest.param(b'"\\' * 10**5, "no JSON", id="endless_text"),
        pytest.param(b"\xff\xfe\0", "no JSON", id="no_text"),
        pytest.param(b"", "no JSON", id="empty"),
        pytest.param(b"[]", "'list' instead of", id="list"),
        pytest.param(b'{"format": "x"}', "'x' instead of", id="another_format"),
        pytest.param(b'{"format": "hdeepinsight.model", "container_version": 1}', "no checksum",
                     id="not_sealed"),
        pytest.param(dump_json({"format": "hdeepinsight.model", "container_version": 9}),
                     "Update hdeepinsight", id="newer"),
        pytest.param(dump_json({"format": "hdeepinsight.model", "container_version": "1"}),
                     "no version", id="version_as_text"),
    ],
)  # fmt: skip
def test_hostile_json(content, says, bounded):
    with pytest.raises(ModelFileError, match=says):
        parse_json(content, "file", "hdeepinsight.model", 1)


GOOD = {"bytes": 3, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        pytest.param({"../model.pt": GOOD}, r"the parts '\.\./model\.pt'", id="traversal"),
        pytest.param({"/etc/passwd": GOOD, "model.pt": GOOD}, "/etc/passwd", id="absolute"),
        pytest.param({"model.pt": GOOD, "x/model.json": GOOD}, "x/model.json", id="folder"),
        pytest.param({}, "the parts", id="none"),
        pytest.param({"adata.h5ad": GOOD}, "the parts", id="no_model"),
        pytest.param({"model.pt": GOOD, "model.json": GOOD}, "the parts", id="two_formats"),
        pytest.param({"model.json": GOOD}, "the parts", id="half_a_model"),
        pytest.param({"model.pt": {}}, "no size and checksum", id="nothing_said"),
        pytest.param({"model.pt": {"bytes": "3", "sha256": "0" * 64}}, "no size", id="text"),
        pytest.param({"model.pt": {"bytes": 3, "sha256": "0"}}, "no size", id="short"),
        pytest.param({"model.pt": 3}, "no size and checksum", id="number"),
        pytest.param([], "no list of parts", id="list"),
        pytest.param({str(i): GOOD for i in range(10**4)}, "bytes", id="endless"),
    ],
)
def test_hostile_manifests(parts, says, tmp_path, bounded):
    record = {"format": "hdeepinsight.manifest", "container_version": 1, "parts": parts}
    (tmp_path / "manifest.json").write_bytes(dump_json(record))
    (tmp_path / "model.pt").write_bytes(b"abc")
    with pytest.raises(ModelFileError, match=says):
        read_model(ModelFolder(tmp_path))


@pytest.mark.parametrize("size", [0, 2, HUGE, -1])
def test_a_manifest_with_a_wrong_size(tmp_path, size):
    (tmp_path / "model.pt").write_bytes(b"abc")
    (tmp_path / "manifest.json").write_bytes(Manifest({"model.pt": Part(size, "0" * 64)}).dump())
    with pytest.raises(ModelFileError, match="different"):
        read_model(ModelFolder(tmp_path))


@pytest.mark.parametrize("prefix", ["../", "a/b", "..", "a\\b", "a\0"])
def test_a_prefix_stays_in_the_folder(tmp_path, prefix):
    with pytest.raises(ValueError, match=re.escape(repr(prefix))):
        ModelFolder(tmp_path, prefix)


def test_fuzzed_pickles_are_read_or_refused():
    """Random edits of real pickles, with correct archives around them: no other error, no hang."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(dump_torch(PAYLOAD))) as file:
        names = [name.split("/", 1)[1] for name in file.namelist()]
        parts = {name: file.read(f"archive/{name}") for name in names}
    program = parts.pop("data.pkl")
    records = [item for item in parts.items() if item[0] != "version"]
    for _ in range(fuzz_trials()):
        body = bytearray(program)
        for _ in range(rng.integers(1, 4)):
            body[rng.integers(len(body))] = rng.integers(256)
        try:
            parse_torch(archive(bytes(body), records), "file")
        except ModelFileError:
            continue


def fuzz_trials() -> int:
    return int(os.environ.get("HDI_FUZZ_TRIALS", "300"))


def test_the_seal_is_the_comment_of_an_archive_that_any_tool_reads():
    content = dump_torch({"a": 1})
    assert content[-84:-64] == b"hdeepinsight sha256 "
    assert hashlib.sha256(content[:-64]).hexdigest().encode() == content[-64:]
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert file.testzip() is None
        assert file.comment == content[-84:]
