"""Labels by marker genes from the command line: no model, the same outputs."""

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


def test_markers_label_a_file_as_python_does(hdeepinsight, blood, tmp_path):
    out = tmp_path / "labels.h5ad"
    done = hdeepinsight("annotate", blood, "--markers", "blood", "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "155 of 186 marker genes measured" in done.stdout
    assert "bundled" not in done.stdout
    assert not any(light in done.stdout for light in ("GREEN", "YELLOW", "RED"))
    written = ad.read_h5ad(out)
    wanted = hdi.annotate(blood, markers="blood")
    for level in ("lineage", "cell_type", "subtype", "stop_label"):
        assert written.obs[f"hdi_{level}"].tolist() == wanted.labels[level].tolist()
    right = written.obs["hdi_cell_type"].astype(str) == written.obs["cell_type"].astype(str)
    assert right.mean() > 0.75
    assert (
        written.obs["hdi_lineage"].astype(str) == written.obs["lineage"].astype(str)
    ).mean() > 0.95


def test_a_list_of_ones_own_makes_its_own_tree_and_page(hdeepinsight, blood, tmp_path):
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


def test_a_page_compares_with_known_labels(hdeepinsight, blood, tmp_path):
    out = tmp_path / "page.html"
    done = hdeepinsight(
        "report", blood, "--markers", "blood", "-l", "lineage", "--out", out, "--fast"
    )
    assert done.exit_code == 0, done.stderr
    assert out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "elsewhere"], "model cannot be had"),
        (["--adapt", "on"], "--adapt on cannot be had"),
        (["--stream", "--out", "labels.csv"], "--markers cannot be had"),
        (["--types", "Neuron"], "Neuron"),
    ],
)
def test_what_does_not_go_with_markers_is_refused(hdeepinsight, blood, tmp_path, options, said):
    if "--out" not in options:
        options = [*options, "--out", tmp_path / "out.csv"]
    done = hdeepinsight("annotate", blood, "--markers", "blood", *options)
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.stderr.split())


def test_a_broken_list_is_named_by_its_line(hdeepinsight, blood, tmp_path):
    genes = tmp_path / "mine.gmt"
    genes.write_text("T\t\tCD3D\nB CD79A\n")
    done = hdeepinsight("annotate", blood, "--markers", genes, "--out", tmp_path / "out.csv")
    assert done.exit_code == 1
    assert "line 2" in " ".join(done.stderr.split())
    assert not (tmp_path / "out.csv").exists()
