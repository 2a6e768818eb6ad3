"""The room for preparing data shows what the door offers."""

import numpy as np

from hdeepinsight import data, pp


def test_every_name_is_the_one_of_the_door():
    assert pp.__all__ == sorted(pp.__all__)
    shared = [name for name in pp.__all__ if hasattr(data, name)]
    assert len(shared) >= 6
    assert all(getattr(pp, name) is getattr(data, name) for name in shared)
    assert all(getattr(pp, name).__module__.startswith("hdeepinsight") for name in pp.__all__)


def test_recovering_real_counts_and_looking_at_them(pbmc68k):
    counts = pp.recover_counts(pbmc68k, use_raw=True)
    report = pp.inspect_input(counts)
    assert report.scale == "counts"
    assert report.problems == ()
    assert np.asarray(counts.X.max()) == 259
