"""Every surface, under a few inputs in every run and under many in the slow ones.

A target raises `Violation` where something is executed, opened, changed or connected to, where
time or memory runs away, or where an error says too little; any other error is one that is not
documented.
``run_atheris.py`` runs the same targets for as long as you like.
"""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from surfaces import TARGETS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")

CORPUS = Path(__file__).parent / "corpus"
#: Inputs in every run; a hundred times as many in the slow ones.
BUDGET = dict.fromkeys(TARGETS, 30) | {
    "taxonomy_obo": 8,
    "h5ad_bytes": 6,
    "h5ad_structure": 8,
    "zarr_structure": 4,
    "model_description": 3,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=20,
)
CLOSER = {
    "taxonomy_json": JSON.map(lambda value: b"\1" + json.dumps(value).encode()),
    "hub_address": st.text().map(lambda text: text.encode("utf-8", errors="surrogateescape")),
}


def inputs(name: str) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=80) | CLOSER.get(name, st.nothing())


def run(name: str, n_inputs: int) -> None:
    @settings(
        max_examples=n_inputs,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(name))
    def fuzz(data: bytes) -> None:
        TARGETS[name](data)

    fuzz()


def test_what_once_broke_is_read_or_refused():
    for name in TARGETS:
        seeds = sorted((CORPUS / name).iterdir())
        assert seeds
        for seed in seeds:
            TARGETS[name](seed.read_bytes())


def test_a_few_inputs():
    for name in TARGETS:
        run(name, BUDGET[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs(name):
    run(name, 100 * BUDGET[name])


def test_the_corpus_is_small_and_complete():
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 200_000
