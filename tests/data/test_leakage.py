"""Shared cells and donors of training and test data."""

import numpy as np
import pytest

from hdeepinsight.metrics import check_leakage


@pytest.fixture
def parts(synthetic_hierarchy):
    cells = synthetic_hierarchy
    cells.obs["donor"] = np.where(np.arange(cells.n_obs) < 300, "A", "B")
    return cells[:300].copy(), cells[300:].copy()


def test_split_without_leakage_is_clean(parts):
    report = check_leakage(*parts, donor_key="donor")
    assert report.is_clean
    assert report.same_names == {"train": 0}
    assert str(report) == "No leakage was found."


def test_shared_cell_is_found_under_another_name(parts):
    train, test = parts
    planted = test[:3].copy()
    planted.obs_names = ["x", "y", "z"]
    train = train[:, ::-1]
    grown = type(train)(
        np.vstack([train.X.toarray(), planted[:, train.var_names].X.toarray()]),
        obs=train.obs.iloc[list(range(300)) + [0] * 3]
        .reset_index(drop=True)
        .set_axis([*train.obs_names, *planted.obs_names]),
        var=train.var,
    )[:, :90].copy()
    report = check_leakage(grown, test)
    assert report.same_counts["train"] == tuple(test.obs_names[:3])
    assert "3 test cells" in str(report)
    pretrained = check_leakage(parts[0], test, pretrain=[parts[0][:10].copy(), grown])
    assert pretrained.same_counts == {"train": (), "pretrain": tuple(test.obs_names[:3])}


def test_shared_donor_is_found(parts):
    train, test = parts
    test.obs.loc[test.obs_names[5], "donor"] = "A"
    report = check_leakage(train, test, donor_key="donor")
    assert not report.is_clean
    assert report.donors == {"train": ("A",)}
    report = check_leakage(test[:5].copy(), test[5:], pretrain=train, donor_key="donor")
    assert report.donors == {"train": ("B",), "pretrain": ("A",)}
    assert "1 donor also in pretrain: A." in str(report)
    with pytest.raises(KeyError, match="mouse"):
        check_leakage(train, test, donor_key="mouse")


def test_equal_names_alone_are_reported_but_no_leak(parts):
    train, test = parts
    test.obs_names = train.obs_names[: test.n_obs]
    report = check_leakage(train, test)
    assert report.is_clean
    assert report.same_names["train"] == test.n_obs
