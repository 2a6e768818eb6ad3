"""``hdeepinsight explain`` writes the rankings of `model.explain`."""

import numpy as np
import pandas as pd

from hdeepinsight import SCHDeepInsight, SCLabelNet


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


def test_options_are_those_of_the_model(hdeepinsight, files, halves, tmp_path):
    SCLabelNet.setup_anndata(halves[0], labels_keys=["lineage", "cell_type"])
    model = SCLabelNet(halves[0], n_genes=64)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    model.train(max_epochs=1, validation_size=0.2, **quiet)
    model.save(tmp_path / "model")
    command = ["explain", files.query, "--model", tmp_path / "model", "--out", tmp_path / "g.csv"]
    done = hdeepinsight(*command, "--n-samples", 4)  # of the types that it predicts so far
    assert done.exit_code == 0, done.output
    found = model.explain(files.query, n_samples=4)
    table = pd.read_csv(tmp_path / "g.csv")
    for node in table["node"].unique():
        genes = table["gene"][table["node"] == node]
        assert genes.tolist() == found.ranking(node).index.tolist()
    done = hdeepinsight(*command, "--background", files.reference, "--overwrite")
    assert done.exit_code == 2
    assert "SCLabelNet has no option --background. Omit it." in " ".join(done.output.split())
