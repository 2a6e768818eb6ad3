"""Decoding of probabilities to leaves and labels."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdeepinsight.annotation import check_decoding, decode
from hdeepinsight.taxonomy import Taxonomy

DECODERS = ["joint", "greedy"]
THRESHOLDS = [0.5, 0.6, 0.8, 0.95, 1.0]


def naive_decode(taxonomy, p, decoder, threshold):
    """One cell, written as the method says it."""
    stop = 0
    for node in range(1, taxonomy.n_nodes):
        if threshold is not None and p[node] >= threshold:
            stop = max(stop, node, key=lambda v: taxonomy.depth[v])
    if decoder == "joint":
        below = [v for v in taxonomy.leaves if stop == 0 or stop in taxonomy.ancestors(v)]
        leaf = max(below, key=lambda v: p[v])
    else:
        leaf = stop
        while len(taxonomy.children(leaf)):
            leaf = max(taxonomy.children(leaf), key=lambda v: p[v])
    return leaf, leaf if threshold is None else stop


def test_values_equal_a_plain_loop(taxonomy, probabilities):
    for threshold in [None, *THRESHOLDS]:
        for decoder in DECODERS:
            p = probabilities(taxonomy, 80)
            decoded = decode(taxonomy, p, decoder=decoder, threshold=threshold)
            expected = [naive_decode(taxonomy, row, decoder, threshold) for row in p]
            assert list(zip(decoded.leaf, decoded.stop, strict=True)) == expected


def test_both_decoders_stop_at_the_same_node(taxonomy, probabilities):
    for threshold in THRESHOLDS:
        p = probabilities(taxonomy, 300, sharpness=1.0)
        joint, greedy = (decode(taxonomy, p, decoder=d, threshold=threshold) for d in DECODERS)
        np.testing.assert_array_equal(joint.stop, greedy.stop)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sharpness=st.floats(0.0, 5.0),
    thresholds=st.lists(st.floats(0.5, 1.0), min_size=2, max_size=5),
)
def test_a_higher_threshold_only_moves_up(probabilities, seed, sharpness, thresholds):
    taxonomy = Taxonomy.from_nested({"T": {"CD4": ["a", "b"], "CD8": ["c"]}, "B": ["d"], "NK": []})
    # In the precision of the model, with its rounding.
    p = probabilities(taxonomy, 12, seed, sharpness).astype(np.float32)
    for decoder in DECODERS:
        stops = [
            decode(taxonomy, p, decoder=decoder, threshold=tau).stop for tau in sorted(thresholds)
        ]
        for low, high in pairwise(stops):
            assert all(b == 0 or b in taxonomy.ancestors(a) for a, b in zip(low, high, strict=True))


def test_a_tie_at_one_half_moves_up_as_well():
    """Rounding may let two branches pass: the path must not jump from one to the other."""
    taxonomy = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["naive", "memory"]})
    T, B, naive = (taxonomy.resolve(name) for name in ("T", "B", "naive"))
    p = np.zeros((1, taxonomy.n_nodes), dtype=np.float32)
    p[0, [0, T, B, naive]] = 1.0, 0.50000006, 0.5, 0.5
    assert decode(taxonomy, p, threshold=0.50000003).stop == T
    assert decode(taxonomy, p, threshold=0.5).stop == T
    assert decode(taxonomy, p, threshold=0.51).stop == 0


def test_leaf_lies_under_the_stop_node(taxonomy, probabilities):
    for threshold in [None, *THRESHOLDS]:
        for decoder in DECODERS:
            decoded = decode(
                taxonomy, probabilities(taxonomy, 100), decoder=decoder, threshold=threshold
            )
            for leaf, stop in zip(decoded.leaf, decoded.stop, strict=True):
                assert taxonomy.n_children[leaf] == 0
                assert stop == 0 or stop in taxonomy.ancestors(leaf)


def test_the_decoders_differ_where_the_base_is_spread(two_levels):
    p = np.array([[1.0, 0.55, 0.45, 0.2, 0.19, 0.16, 0.44, 0.01]])
    names = {
        (decoder, threshold): two_levels.label(
            int(decode(two_levels, p, decoder=decoder, threshold=threshold).leaf[0])
        )
        for decoder in DECODERS
        for threshold in (None, 0.5, 0.6)
    }
    assert names["joint", None] == names["joint", 0.6] == "naive"
    assert names["greedy", None] == names["greedy", 0.6] == "CD4"
    # With T as the stop node, both look for a leaf of T.
    assert names["joint", 0.5] == names["greedy", 0.5] == "CD4"


def test_without_a_threshold_the_label_is_the_decoded_leaf(taxonomy, probabilities):
    p = probabilities(taxonomy, 50, sharpness=0.1)
    for decoder in DECODERS:
        decoded = decode(taxonomy, p, decoder=decoder, threshold=None)
        np.testing.assert_array_equal(decoded.leaf, decoded.stop)
    joint = decode(taxonomy, p, threshold=None).leaf
    np.testing.assert_array_equal(joint, taxonomy.leaves[p[:, taxonomy.leaves].argmax(axis=1)])


def test_a_chain_of_single_children_is_certain(probabilities):
    chain = Taxonomy.from_nested({"T": {"CD4": ["naive"]}})
    decoded = decode(chain, probabilities(chain, 4), threshold=1.0)
    assert decoded.stop.tolist() == decoded.leaf.tolist() == [3] * 4


def test_a_single_child_stops_with_its_parent(ragged, probabilities):
    p = probabilities(ragged, 400)
    stop = decode(ragged, p, threshold=0.7).stop
    assert (stop == ragged.resolve("MAIT", level=2)).any()
    assert not (stop == ragged.resolve("MAIT", level=1)).any()


def test_the_probabilities_are_not_changed(ragged, probabilities):
    p = probabilities(ragged, 10)
    before = p.copy()
    for decoder in DECODERS:
        decode(ragged, p, decoder=decoder)
    np.testing.assert_array_equal(p, before)


def test_no_cells_have_no_path(taxonomy):
    for threshold in (None, 0.5):
        for decoder in DECODERS:
            p = np.zeros((0, taxonomy.n_nodes))
            decoded = decode(taxonomy, p, decoder=decoder, threshold=threshold)
            assert decoded.leaf.shape == decoded.stop.shape == (0,)


def test_other_thresholds_are_refused(two_levels):
    for threshold in [0.0, 0.49999, 1.00001, float("nan")]:
        with pytest.raises(ValueError, match=r"number from 0.5 to 1, got .*threshold=None"):
            check_decoding(threshold)
        with pytest.raises(ValueError, match=f"got {threshold}"):
            decode(two_levels, np.ones((1, two_levels.n_nodes)), threshold=threshold)


def test_other_decoders_are_refused(two_levels):
    with pytest.raises(ValueError, match=r"decoder must be one of 'joint', 'greedy', got 'beam'"):
        decode(two_levels, np.ones((1, two_levels.n_nodes)), decoder="beam")
