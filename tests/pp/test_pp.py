"""Names in hdeepinsight.pp."""

import numpy as np

from hdeepinsight import data, pp


def test_names_are_those_of_the_package():
    names = [name for name in vars(pp) if name[0] != "_"]
    shared = [name for name in names if hasattr(data, name)]
    assert len(shared) >= 6
    assert all(getattr(pp, name) is getattr(data, name) for name in shared)
    assert all(getattr(pp, name).__module__.startswith("hdeepinsight") for name in names)


def test_counts_are_recovered_and_inspected(pbmc68k):
    counts = pp.recover_counts(pbmc68k, use_raw=True)
    report = pp.inspect_input(counts)
    assert report.scale == "counts"
    assert report.problems == ()
    assert np.asarray(counts.X.max()) == 259
