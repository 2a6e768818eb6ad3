"""Joint integration along a guide tree."""

import numpy as np
import pytest

import hdeepinsight as hdi
from hdeepinsight.pp import StacasConfig

FEW = StacasConfig(n_dims=4)  # three types span three dimensions, the rest is noise


def corrected(result, dataset):
    return np.concatenate([values for _, values in result.corrected(dataset)])


@pytest.fixture
def batches(draw, wrap):
    """Four batches with different shifts, and their types."""
    rng = np.random.default_rng(11)
    made = []
    for i, n_cells in enumerate((200, 160, 150, 120)):
        values, kind = draw(n_cells, 20 + i)
        made.append((values + 0.6 * i / 3 * rng.random(40), kind))
    return [wrap(v, k, prefix=f"b{i}_") for i, (v, k) in enumerate(made)]


def spread(blocks, kinds):
    """Largest distance between the batches' means of one type, per gene."""
    gaps = []
    for k in np.unique(kinds[0]):
        means = np.stack([x[kind == k].mean(0) for x, kind in zip(blocks, kinds, strict=True)])
        gaps.append(np.abs(means[:, None] - means[None]).mean(axis=2).max())
    return max(gaps)


def test_batches_are_aligned_and_the_base_is_unchanged(batches, exact, logs):
    result = hdi.pp.stacas(batches, mode="integrate", config=FEW, **exact)
    names = [one.name for one in result.datasets]
    kinds = [one.obs["cell_type"].to_numpy() for one in batches]
    after = [corrected(result, name) for name in names]
    assert spread(after, kinds) < 0.35 * spread([logs(one) for one in batches], kinds)
    np.testing.assert_array_equal(after[result.tree.base], logs(batches[result.tree.base]))
    assert len(result.tree.merges) == 3
    assert len(result.report.cells) == 630


def test_composed_corrections_equal_sequential_ones(batches, exact, logs):
    result = hdi.pp.stacas(batches, mode="integrate", **exact)
    now = np.concatenate([logs(one) for one in batches]).astype(float)
    for step in result.outcome.corrections:
        shift = step.weights.shift
        now[step.cells] += shift @ now[: shift.shape[1]]
    found = np.concatenate([corrected(result, one.name) for one in result.datasets])
    np.testing.assert_allclose(found, now, atol=1e-5)


def test_two_datasets_are_one_projection_onto_the_stronger(batches, exact):
    joined = hdi.pp.stacas(batches[0], batches[3], mode="integrate", **exact)
    base = joined.tree.base
    ref, query = (batches[0], batches[3]) if base == 0 else (batches[3], batches[0])
    moved = "query" if base == 0 else "reference"
    projected = hdi.pp.stacas(ref, query, **exact)
    np.testing.assert_allclose(corrected(joined, moved), corrected(projected, "query"), atol=1e-5)


def test_several_references_are_integrated_and_then_fixed(batches, exact):
    result = hdi.pp.stacas(batches[:3], batches[3], **exact)
    alone = hdi.pp.stacas(batches[:3], mode="integrate", **exact)
    for i in (1, 2, 3):
        np.testing.assert_allclose(
            corrected(result, f"reference_{i}"), corrected(alone, f"reference_{i}"), atol=1e-6
        )
    np.testing.assert_allclose(
        corrected(result.transform(batches[3]), None), corrected(result, None), atol=1e-5
    )


def test_sides_without_anchors_raise(batches, exact):
    batches[0].obs["cell_type"] = "one"
    batches[1].obs["cell_type"] = "other"
    keys = {"labels_key": "cell_type", "query_labels_key": "cell_type"}
    with pytest.raises(hdi.data.InputError, match=r"No anchors between datasets \[0\] and \[1\]"):
        hdi.pp.stacas(batches[0], batches[1], mode="integrate", **keys, **exact)


def test_small_datasets_are_left_out_of_the_tree(batches, exact, logs):
    batches[2] = batches[2][:50]
    result = hdi.pp.stacas(batches, mode="integrate", **exact)
    np.testing.assert_array_equal(corrected(result, "reference_3"), logs(batches[2]))
    assert result.report.datasets.loc["reference_3", "flag"] == "too few cells"
    assert len(result.tree.merges) == 2
