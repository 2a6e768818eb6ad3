"""Huge or very deep taxonomies, and files of other formats."""

import bz2
import gzip
import json
import time

import pytest

from hdeepinsight.taxonomy import Taxonomy

DEEP = 100_000


def record(nodes: list[dict]) -> str:
    depth = [0]
    for node in nodes:
        depth.append(depth[node["parent"]] + 1)
    levels = [f"level_{i + 1}" for i in range(max(depth))]
    head = {"format": "hdeepinsight.taxonomy", "schema_version": 1, "level_names": levels}
    return json.dumps(head | {"root_synonyms": [], "nodes": nodes})


def chain(n_nodes: int, **more: str) -> list[dict]:
    return [
        {"name": f"n{i}", "parent": i} | {key: f"{value}{i}" for key, value in more.items()}
        for i in range(n_nodes)
    ]


def obo(n_terms: int, parent) -> bytes:
    terms = [
        f"[Term]\nid: CL:{i:07d}\nname: t{i}\n" + (f"is_a: CL:{parent(i):07d}\n" if i else "")
        for i in range(n_terms)
    ]
    return ("format-version: 1.2\n\n" + "\n".join(terms)).encode()


@pytest.fixture(autouse=True)
def in_time():
    """Limit the CPU time of each test."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 60


def test_a_chain_of_absurd_depth_is_read_from_json():
    assert Taxonomy.from_json(record(chain(DEEP))).max_depth == DEEP


def test_many_ids_on_a_deep_chain_are_refused():
    text = record(chain(DEEP, ontology_id="CL:"))
    with pytest.raises(ValueError, match=r"shallower tree.*more than 16,777,216 names in total"):
        Taxonomy.from_json(text)


def test_brackets_of_absurd_depth_are_refused():
    for text in ('{"nodes": ' + "[" * 10**6, '{"a":' * 10**6):
        with pytest.raises(ValueError, match=r"not JSON"):
            Taxonomy.from_json(text)


@pytest.mark.slow
def test_a_million_nodes_are_read_from_json():
    names = [f"n{i}" for i in range(10**6)]
    flat = Taxonomy.from_json(record([{"name": name, "parent": 0} for name in names]))
    assert flat.n_leaves == 10**6


@pytest.mark.slow
def test_an_ontology_of_absurd_depth_is_read(tmp_path):
    path = tmp_path / "deep.obo"
    path.write_bytes(obo(20_000, lambda i: i - 1))
    tree = Taxonomy.from_cell_ontology(path, ["t19999", "t0", "t100"])
    assert tree.names[1:] == (("t0",), ("t0", "t100"), ("t0", "t100", "t19999"))


def test_an_ontology_of_too_many_terms_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "many.obo"
    path.write_bytes(obo(10**6, lambda i: i - 1))
    began = time.process_time()
    with pytest.raises(ValueError, match="1,000,000 terms, more than 100,000"):
        Taxonomy.from_cell_ontology(path, ["t0"])
    assert time.process_time() - began < 2


def test_a_cycle_of_terms_is_refused(tmp_path):
    path = tmp_path / "cycle.obo"
    path.write_bytes(
        b"format-version: 1.2\n\n[Term]\nid: CL:1\nname: a\nis_a: CL:2\n\n"
        b"[Term]\nid: CL:2\nname: b\nis_a: CL:1\n"
    )
    with pytest.raises(ValueError, match="must not be its own ancestor, got a cycle"):
        Taxonomy.from_cell_ontology(path, ["a", "b"])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(b"format-version: 1.2\n" + b"!" * 10**8), id="packed_bomb"),
        pytest.param(bz2.compress(b"format-version: 1.2\n"), id="bzip2"),
        pytest.param(b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "x">]><r>&a;</r>', id="xml"),
        pytest.param(b'{"graphs": []}', id="json"),
        pytest.param(b"format-version: 1.2\n\xff", id="no_text"),
        pytest.param(b"", id="empty"),
    ],
)
def test_other_file_formats_do_not_reach_the_parser(tmp_path, content, monkeypatch):
    import pronto

    monkeypatch.setattr(pronto, "Ontology", lambda *_, **__: pytest.fail("parsed"))
    path = tmp_path / "x.obo"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="which cannot be read"):
        Taxonomy.from_cell_ontology(path, ["cell"])


def test_errors_shorten_long_input():
    name = "x" * 10**6
    nodes = [{"name": name, "parent": 0}, {"name": name, "parent": 0}]
    with pytest.raises(ValueError, match="the name of a sibling") as caught:
        Taxonomy.from_json(record(nodes))
    assert len(str(caught.value)) < 500


def test_numbers_and_text_that_python_refuses_are_named(tmp_path):
    text = record([{"name": "a", "parent": 0}]).replace('"parent": 0', '"parent": ' + "9" * 5000)
    with pytest.raises(ValueError, match="value has 5000 digits"):
        Taxonomy.from_json(text)
    (tmp_path / "latin.json").write_bytes(b'{"format": "\xe9"}')
    with pytest.raises(ValueError, match="not JSON"):
        Taxonomy.from_json(tmp_path / "latin.json")
    for path in ("a\0b", "x" * 10**4, str(tmp_path)):
        with pytest.raises(FileNotFoundError, match="got no file"):
            Taxonomy.from_json(path)
