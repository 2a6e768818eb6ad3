"""The quickstart of the README does what it says, as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
(QUICKSTART,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_quickstart_is_short():
    assert len([line for line in QUICKSTART.splitlines() if line.strip()]) <= 12


@pytest.mark.filterwarnings("ignore:No cells are held out")
def test_quickstart_labels_the_query(synthetic_hierarchy, tmp_path, monkeypatch):
    synthetic_hierarchy = synthetic_hierarchy[::2]  # enough to learn from, in a quarter of the time
    held_out = np.arange(synthetic_hierarchy.n_obs) % 3 == 0
    truth = synthetic_hierarchy.obs[held_out]
    query = synthetic_hierarchy[held_out].copy()
    del query.obs
    synthetic_hierarchy[~held_out].write_h5ad(tmp_path / "reference.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    monkeypatch.chdir(tmp_path)

    names = {}
    exec(QUICKSTART, names)

    labels = names["result"].labels
    assert (labels["lineage"].astype(str) == truth["lineage"].astype(str)).mean() > 0.9
    assert (labels["cell_type"].astype(str) == truth["cell_type"].astype(str)).mean() > 0.8
    assert "hdi_cell_type" in names["query"].obs
