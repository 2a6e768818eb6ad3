"""Memory is that of the process, from the moment that counts."""

import os
import sys

import numpy as np
import pytest
from harness.machine import forget_peak, host, peak_rss_mb, versions


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_peak_memory_sees_an_array_come_and_can_forget_that_it_was_there():
    forget_peak()
    before = peak_rss_mb()
    block = np.ones(200 * 2**17)  # 200 MiB
    with_block = peak_rss_mb()
    del block
    assert with_block - before == pytest.approx(200, abs=20)
    assert peak_rss_mb() == pytest.approx(with_block, abs=20)
    forget_peak()
    assert peak_rss_mb() - before < 50


def test_versions_leave_out_what_is_not_installed():
    found = versions(("numpy", "no-such-distribution"))
    assert found == {"numpy": np.__version__}


def test_host_says_what_the_figures_depend_on():
    facts = host()
    assert facts["cores"] == os.cpu_count()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["memory_gb"] is None or facts["memory_gb"] > 0
