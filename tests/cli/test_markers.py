"""``hdeepinsight annotate --markers``: labels by marker genes instead of a model."""

import anndata as ad
import pandas as pd
import pytest

import hdeepinsight as hdi

pytestmark = pytest.mark.filterwarnings("ignore:.*left out, with no marker gene:UserWarning")


@pytest.fixture(scope="module")
def blood(tmp_path_factory):
    path = tmp_path_factory.mktemp("blood") / "query.h5ad"
    hdi.datasets.pbmc3k()[::6].copy().write_h5ad(path)
    return path


def test_markers_give_the_labels_of_hdi_annotate(hdeepinsight, blood, tmp_path):
    out = tmp_path / "labels.h5ad"
    done = hdeepinsight("annotate", blood, "--markers", "blood", "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "155 of 186 marker genes measured" in done.stdout
    assert "bundled" not in done.stdout
    assert not any(light in done.stdout for light in ("GREEN", "YELLOW", "RED"))
    written = ad.read_h5ad(out)
    expected = hdi.annotate(blood, markers="blood")
    for level in ("lineage", "cell_type", "subtype", "stop_label"):
        assert written.obs[f"hdi_{level}"].tolist() == expected.labels[level].tolist()
    right = written.obs["hdi_cell_type"].astype(str) == written.obs["cell_type"].astype(str)
    assert right.mean() > 0.75
    assert (
        written.obs["hdi_lineage"].astype(str) == written.obs["lineage"].astype(str)
    ).mean() > 0.95


def test_custom_marker_list_gives_labels_and_report(hdeepinsight, blood, tmp_path):
    genes = tmp_path / "mine.gmt"
    genes.write_text("T\t\tCD3D\tCD3E\nB\t\tCD79A\tMS4A1\nMono\t\tLYZ\tS100A9\n")
    out, page = tmp_path / "labels.csv", tmp_path / "page.html"
    done = hdeepinsight(
        "annotate", blood, "--markers", genes, "--out", out, "--report", page, "--fast"
    )
    assert done.exit_code == 0, done.stderr
    table = pd.read_csv(out, index_col=0)
    assert set(table["cell_type"]) <= {"T", "B", "Mono", "Unknown"}
    assert "<html" in page.read_text()[:200]


def test_options_that_conflict_with_markers_raise(hdeepinsight, blood, tmp_path_factory):
    for options, message in [
        (["--model", "elsewhere"], "--markers must be passed without a model"),
        (["--adapt", "on"], "--markers must be passed without --adapt on"),
        (["--stream", "--out", "labels.csv"], "--markers needs all cells at once"),
        (["--types", "Neuron"], "Neuron"),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        if "--out" not in options:
            options = [*options, "--out", tmp_path / "out.csv"]
        done = hdeepinsight("annotate", blood, "--markers", "blood", *options)
        assert done.exit_code in (1, 2)
        assert message in " ".join(done.stderr.split())


def test_malformed_marker_list_raises_with_the_line(hdeepinsight, blood, tmp_path):
    genes = tmp_path / "mine.gmt"
    genes.write_text("T\t\tCD3D\nB CD79A\n")
    done = hdeepinsight("annotate", blood, "--markers", genes, "--out", tmp_path / "out.csv")
    assert done.exit_code == 1
    assert "line 2" in " ".join(done.stderr.split())
    assert not (tmp_path / "out.csv").exists()
