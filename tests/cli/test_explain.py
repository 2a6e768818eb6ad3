"""``hdeepinsight explain`` writes the rankings of `model.explain`."""

import numpy as np
import pandas as pd

from hdeepinsight import SCHDeepInsight


def test_rankings_are_written_and_shown(hdeepinsight, files, tmp_path):
    out = tmp_path / "genes.csv"
    done = hdeepinsight(
        "explain", files.query, "--model", files.model, "--nodes", "T,DC", "--out", out
    )
    assert done.exit_code == 0, done.output
    table = pd.read_csv(out)
    assert table.columns[:2].tolist() == ["node", "gene"]
    found = SCHDeepInsight.load(files.model, adata=False).explain(files.query, ["T", "DC"])
    for node in found.nodes:
        written, expected = table[table["node"] == node], found.ranking(node)
        assert written["gene"].tolist() == expected.index.tolist()
        np.testing.assert_allclose(written["mean"], expected["mean"], atol=1e-6)
        assert expected.index[0] in done.output


def test_type_without_cells_raises(hdeepinsight, files, halves, tmp_path):
    cells = halves[1][halves[1].obs["cell_type"] == "DC"].copy()
    cells.write_h5ad(tmp_path / "query.h5ad")
    out = tmp_path / "genes.csv"
    done = hdeepinsight(
        "explain", tmp_path / "query.h5ad", "--model", files.model, "--nodes", "B", "--out", out
    )
    assert done.exit_code == 1
    assert "None of the 28 cells is assigned to B" in " ".join(done.output.split())
    assert not out.exists()
