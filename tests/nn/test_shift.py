"""How far sets of cells are apart: unbiased, whatever their sizes and proportions."""

import numpy as np
import pytest
import torch

from hdeepinsight.nn import LeafProfiles, LeafSums, profile_shift, usual_shift

N_GENES = 200
CENTRES = torch.from_numpy(np.random.default_rng(0).normal(3, 1, (4, N_GENES)))
ALL = torch.ones(N_GENES)


def cells(sizes, seed, moved=0.0):
    """Draw cells of four types around their centres, which may all be moved."""
    rng = np.random.default_rng(seed)
    leaves = torch.from_numpy(np.repeat(np.arange(4), sizes))
    noise = torch.from_numpy(rng.normal(size=(len(leaves), N_GENES)))
    return LeafSums.of(CENTRES[leaves] + noise + moved, leaves, 4)


def test_sums_are_those_of_numpy():
    values, leaves = torch.rand(50, 7), torch.randint(-1, 3, (50,))
    profiles = LeafSums.of(values, leaves, 3).profiles()
    for leaf in range(3):
        here = values[leaves == leaf].numpy()
        np.testing.assert_allclose(profiles.mean[leaf], here.mean(axis=0), rtol=1e-5)
        assert float(profiles.spread[leaf]) == pytest.approx(here.var(axis=0).sum(), rel=1e-4)
    assert profiles.n_cells.sum() == (leaves >= 0).sum()


def test_parts_add_up_and_come_apart():
    first, second = cells([20] * 4, 1), cells([5, 30, 0, 9], 2)
    both = LeafSums.sum([first, second])
    for name in ("n_cells", "total", "squares"):
        rest = getattr(both - second, name)
        torch.testing.assert_close(rest, getattr(first, name))


@pytest.mark.parametrize("sizes", [[12] * 4, [400] * 4, [12, 900, 40, 11]], ids=str)
def test_samples_of_the_same_cells_are_not_apart(sizes):
    """Though the means of twelve cells are."""
    query, reference = cells(sizes, 3).profiles(), cells([50] * 4, 4).profiles()
    assert abs(profile_shift(query, reference, ALL)) < 0.02
    naive = (query.mean - reference.mean).square().sum(1).mean() / (
        (reference.mean - reference.mean.mean(0)).square().sum(1).mean()
    )
    assert naive > profile_shift(query, reference, ALL) + 0.02


def test_the_distance_is_in_units_of_that_between_types():
    query, reference = cells([100] * 4, 5, moved=0.5).profiles(), cells([100] * 4, 6).profiles()
    between = float((CENTRES - CENTRES.mean(0)).square().sum(1).mean())
    assert profile_shift(query, reference, ALL) == pytest.approx(0.25 * N_GENES / between, rel=0.1)


def test_genes_that_were_not_measured_do_not_count():
    query, reference = cells([500] * 4, 5).profiles(), cells([500] * 4, 6).profiles()
    query.mean[:, :50] = 99.0
    measured = ALL.clone()
    measured[:50] = 0
    assert profile_shift(query, reference, measured) < 0.05
    assert profile_shift(query, reference, ALL) > 100


@pytest.mark.parametrize("sizes", [[9, 9, 9, 9], [0, 0, 50, 5]], ids=["few_cells", "one_type"])
def test_nothing_is_said_on_too_little(sizes):
    assert profile_shift(cells(sizes, 1).profiles(), cells([50] * 4, 2).profiles(), ALL) is None


def test_a_few_cells_of_a_large_query_under_a_wrong_name_do_not_count():
    reference = cells([50] * 4, 4).profiles()
    wrong = LeafSums.of(CENTRES[0].repeat(12, 1), torch.full((12,), 3), 4)
    small, large = cells([300] * 3 + [0], 3), cells([5000] * 3 + [0], 3)
    assert profile_shift((small + wrong).profiles(), reference, ALL) > 0.3
    assert profile_shift((large + wrong).profiles(), reference, ALL) == profile_shift(
        large.profiles(), reference, ALL
    )


def test_profiles_of_older_models_cannot_be_compared():
    new = cells([50] * 4, 2).profiles()
    assert profile_shift(new, LeafProfiles(new.mean, new.n_cells), ALL) is None


def test_the_usual_shift_is_that_of_the_middle_batch():
    batches = [cells([50] * 4, seed, moved) for seed, moved in ((1, 0.0), (2, 0.1), (3, 2.0))]
    everything = LeafSums.sum(batches)
    each = [
        profile_shift(batch.profiles(), (everything - batch).profiles(), ALL) for batch in batches
    ]
    assert usual_shift(batches) == pytest.approx(sorted(each)[1])
    assert usual_shift(batches[:1]) is None
