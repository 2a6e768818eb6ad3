"""The ways in which a taxonomy comes from a file."""

import io
import json
import warnings
from copy import deepcopy
from functools import cache

import chardet
import pronto

from hdeepinsight.taxonomy import Taxonomy
from surfaces.dice import Dice
from surfaces.guard import scratch, watched

_ERRORS = (ValueError,)
_STRANGE = (
    None, True, False, 0, 1, -1, 2, 3, 2**31, -(2**63), 10**30, 0.0, 1.5, float("nan"), "", "a",
    "B", "root", "a > b", ">", "\n", "\ud800", "x" * 3000, "é", [], {}, [[]], ["a"], ["a", "b"],
    [1], {"name": "a", "parent": 0}, {"name": "a", "parent": 0, "synonyms": ["s"]},
)  # fmt: skip
_IDS = ("CL:0000000", "CL:0000084", "CL:0000624", "CL:9", "a", "", "http://127.0.0.1:9/x", "é")
_NAMES = ("cell", "T cell", "a", "", "root", "a > b", "x" * 3000, "\\n", '"', "{}", "!", "part_of")
_CLAUSES = (
    "\n[Term]\nid: {a}\nname: {name}\nis_a: {b}",
    "\n[Term]\nid: {a}\nname: {name}",
    "is_a: {a}",
    'is_a: {a} {{x="y"}} ! {name}',
    "name: {name}",
    "alt_id: {a}",
    "is_obsolete: true",
    "replaced_by: {a}",
    "consider: {b}",
    "union_of: {a}",
    "intersection_of: {name} {a}",
    "relationship: {name} {b}",
    "equivalent_to: {a}",
    'synonym: "{name}" EXACT [{a}]',
    'def: "{name}" [{b}]',
    "\n[Typedef]\nid: {a}\nname: {name}\nis_a: {b}\nis_transitive: true",
    "\n[Instance]\nid: {a}",
    "import: {b}",
    "import: file:///etc/passwd",
    "treat-xrefs-as-is_a: CL",
    "xref: {a}",
    "id-mapping: {a} {b}",
    'subsetdef: {a} "{name}"',
    "subset: {a}",
    "created_by: {name}\ncreation_date: 2020-01-01",
    "{name}",
)
_SOUND = {
    "format": "hdeepinsight.taxonomy",
    "schema_version": 1,
    "level_names": ["lineage", "type"],
    "root_synonyms": ["cell"],
    "nodes": [
        {"name": "B", "parent": 0, "ontology_id": "CL:0000236", "published_id": 3},
        {"name": "T", "parent": 0, "synonyms": ["T cell"]},
        {"name": "CD4", "parent": 2},
        {"name": "T", "parent": 2, "unspecified": True},
    ],
}


def taxonomy_json(data: bytes) -> None:
    """JSON, from a file: any bytes, or a sound record with strange values in it."""
    warm_up()
    dice = Dice(data)
    content = dice.rest() if dice.number(2) else json.dumps(_surgery(dice, _SOUND)).encode()
    path = scratch() / "taxonomy.json"
    path.write_bytes(content)
    watched(lambda: _same_again(Taxonomy.from_json(path)), _ERRORS)


def taxonomy_obo(data: bytes) -> None:
    """OBO, whose terms are asked for by id and by name: any bytes, or clauses in any order."""
    warm_up()
    dice = Dice(data)
    path = scratch() / "ontology.obo"
    path.write_bytes(dice.rest() if dice.number(2) else _ontology(dice))
    for terms in (["CL:0000000", "T cell", "CL:0000624"], ["CL:0000624", "CL:0000084", "a"]):
        watched(
            lambda terms=terms: _same_again(
                Taxonomy.from_cell_ontology(path, terms, on_multiple="first")
            ),
            _ERRORS,
        )


def _ontology(dice: Dice) -> bytes:
    lines = ["format-version: 1.2"]
    while not dice.is_empty:
        line = dice.pick(_CLAUSES)
        lines.append(line.format(a=dice.pick(_IDS), b=dice.pick(_IDS), name=dice.pick(_NAMES)))
    return "\n".join(lines).encode()


def _same_again(tree: Taxonomy) -> None:
    """Whatever was read is a taxonomy like any other: it survives every text form."""
    assert Taxonomy.from_json(tree.to_json()) == tree
    assert str(tree)
    assert tree.resolve(tree.path_name(tree.n_nodes - 1)) >= 0


def _surgery(dice: Dice, record: dict) -> dict:
    record = deepcopy(record)
    for _ in range(1 + dice.number(4)):
        place = record
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = dice.pick(keys)
            if isinstance(place[key], dict | list) and place[key] and dice.number(4):
                place = place[key]
                continue
            how = dice.number(4)
            if how == 0:
                del place[key]
            elif how == 1 and isinstance(place, list):
                place.append(deepcopy(dice.pick(_STRANGE)))
            elif how == 2 and isinstance(place, dict):
                place[str(dice.pick(_STRANGE))] = deepcopy(dice.pick(_STRANGE))
            else:
                place[key] = deepcopy(dice.pick(_STRANGE))
            break
    return record


@cache
def warm_up() -> None:
    """Use pronto, and chardet within it, once: what they import at first use is no fault here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ontology = b"format-version: 1.2\n\n[Term]\nid: A:1\nname: a\n"
        pronto.Ontology(io.BytesIO(ontology), import_depth=0)
        chardet.detect("naïve é ü".encode("latin-1") * 9)
