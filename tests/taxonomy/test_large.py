"""Very large or deep trees: no recursion, bounded memory."""

import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra, level_scores, path_distance

N = 100_000
DEEP = 20_000


@pytest.fixture(scope="module")
def chain():
    return Taxonomy(("", *(f"n{i}" for i in range(N))), np.arange(-1, N))


@pytest.fixture(scope="module")
def flat():
    return Taxonomy.from_nested([f"n{i}" for i in range(N)])


def test_a_deep_chain_meets_no_recursion_limit(chain):
    assert chain.max_depth == N
    assert chain.lca(7, N) == 7
    assert chain.resolve("n9") == 10
    assert len(chain.descendants(0)) == N
    assert len(str(chain).splitlines()) == 201


def test_a_deep_chain_goes_through_every_text_form(chain):
    chain = chain.prune([DEEP])
    assert Taxonomy.from_json(chain.to_json()) == chain
    assert Taxonomy.from_nested(chain.to_nested()) == chain
    edges = [("root", "n0"), *pairwise(f"n{i}" for i in range(DEEP))]
    assert Taxonomy.from_edges(edges) == chain


def test_tables_above_the_memory_limit_are_refused(chain):
    for make in (lambda: chain.names, lambda: chain.node_at_level, lambda: TreeAlgebra(chain)):
        with pytest.raises(ValueError, match="at most 512 MB"):
            make()


def test_the_matrix_of_a_wide_tree_is_refused(flat):
    with pytest.raises(ValueError, match=r"ancestor matrix .* 512 MB"):
        _ = flat.ancestor_matrix


def test_a_wide_tree_is_fast(flat):
    start = time.process_time()
    again = Taxonomy.from_nested([f"n{i}" for i in range(N)])
    assert time.process_time() - start < 3  # measured 0.3 s; with a margin for a busy machine
    assert again == flat


@pytest.mark.slow
def test_labels_of_many_types_are_fast():
    kinds = pd.DataFrame({"lineage": [f"l{i % 1000}" for i in range(N)]})
    kinds["type"] = [f"n{i}" for i in range(N)]
    start = time.process_time()
    tree = Taxonomy.from_obs(kinds, ["lineage", "type"])
    assert time.process_time() - start < 10  # measured 0.9 s; with a margin for a busy machine
    assert tree.n_leaves == N
    assert (tree.encode(kinds["type"]) == tree.encode_levels(kinds)).all()


def test_a_wide_softmax_sums_to_one(flat):
    probability = TreeAlgebra(flat)(torch.randn(2, N)).exp()
    torch.testing.assert_close(probability[:, 1:].sum(dim=1), torch.ones(2), rtol=0, atol=1e-6)


def test_scores_of_many_cells_are_fast(immune):
    true, pred = np.random.default_rng(0).integers(0, 66, (2, 100_000))
    start = time.process_time()
    level_scores(immune, true, pred)
    path_distance(immune, true, pred)
    assert time.process_time() - start < 1  # measured 0.02 s
