"""The bundled models: complete, small, listed and accurate on simple data."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi
from hdeepinsight.data import GeneMatchError
from hdeepinsight.hub import bundled_folders

FOLDER = bundled_folders()["pbmc"]
#: Genes that tell a lineage from all others, for cells made of nothing else.
MARKERS = {
    "T": ["CD3D", "CD3E", "IL7R", "LTB", "LDHB", "TCF7", "CD4", "MAL"],
    "NK": ["NKG7", "GNLY", "GZMB", "PRF1", "FGFBP2", "SPON2", "KLRD1", "CLIC3"],
    "B": ["MS4A1", "CD79A", "CD79B", "CD74", "HLA-DRA", "TCL1A", "LINC00926", "BANK1"],
    "Myeloid": ["LYZ", "S100A8", "S100A9", "CD14", "FCN1", "S100A12", "CST3", "VCAN"],
}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HDEEPINSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HDEEPINSIGHT_MIRROR", raising=False)


@pytest.fixture(scope="module")
def model():
    return hdi.hub.pull("pbmc")


@pytest.fixture
def cells(model):
    """Twenty cells of each lineage in `MARKERS`: its markers over a background of all genes."""
    rng, genes = np.random.default_rng(0), list(model.layout.genes)
    background = 1000 * model.module.normalizer.mean_share.numpy()
    rates = np.tile(background, (20 * len(MARKERS), 1))
    own = {gene for markers in MARKERS.values() for gene in markers} & set(genes)
    rates[:, [genes.index(gene) for gene in own]] *= 0.02
    for row, markers in enumerate(MARKERS.values()):
        found = [genes.index(gene) for gene in markers if gene in own]
        rates[20 * row : 20 * (row + 1), found] = 15
    obs = pd.DataFrame({"lineage": np.repeat(list(MARKERS), 20)})
    obs.index = obs.index.astype(str)
    var = pd.DataFrame(index=genes)
    return ad.AnnData(rng.poisson(rates).astype(np.float32), obs=obs, var=var)


def test_bundled_model_has_the_published_format():
    names = {path.name for path in FOLDER.iterdir()}
    assert {"model.pt", "manifest.json", "checksums.sha256", "README.md", "adata.h5ad"} <= names
    shared = hdi.hub.download("pbmc")  # which compares every checksum
    assert shared.folder == FOLDER
    metadata = json.loads((FOLDER / "_scvi_required_metadata.json").read_text())
    assert metadata["model_cls_name"] == "SCHDeepInsight"


@pytest.mark.parametrize("name", ["immune", "pbmc"])
def test_bundled_model_is_at_most_five_megabytes(name):
    files = bundled_folders()[name].rglob("*")
    assert sum(path.stat().st_size for path in files) <= 5_000_000


@pytest.mark.parametrize(("name", "n_types"), [("immune", 17), ("pbmc", 8)])
def test_bundled_taxonomy_has_levels_and_ontology_ids(name, n_types):
    tree = hdi.hub.pull(name).taxonomy
    assert tree.n_leaves == n_types
    assert tree.max_depth == 3
    assert len(tree.ontology_ids) == tree.n_nodes - 1
    assert all(term.startswith("CL:") for term in tree.ontology_ids.values())


def test_bundled_card_has_licences_citations_and_scores():
    card = hdi.hub.download("pbmc").card
    assert 'license: "cc-by-4.0"' in card
    for words in ("doi:10.1038/ncomms14049", "BSD-2-Clause", "MIT", "Kang 2018", "10x PBMC 4k"):
        assert words in card
    assert card.count("hierarchical F1") == 6  # held-out cells, four unseen datasets, half of one


def test_marker_profiles_get_their_lineage(cells):
    result = hdi.annotate(cells, adapt="off", refine="off", threshold=None, reject="off")
    labels = result.labels["lineage"]
    for name in MARKERS:
        assert (labels[cells.obs["lineage"] == name] == name).mean() >= 0.9, name


@pytest.mark.filterwarnings("ignore::hdeepinsight.data.GeneCoverageWarning")
def test_larger_model_finds_progenitors_and_takes_no_other_blood_cell_for_one():
    data = hdi.datasets.demo()
    cells = ad.concat([data.reference, data.query])
    labels = hdi.hub.pull("immune").predict(cells, level="lineage", threshold=None, reject="off")
    names = {"T cell": "T", "NK cell": "NK", "B cell": "B", "Myeloid cell": "Myeloid"}
    for given, name in (names | {"Progenitor": "HSPC"}).items():
        assert (labels[cells.obs["lineage"] == given] == name).mean() >= 0.9, name
    assert not (labels[cells.obs["lineage"] != "Progenitor"] == "HSPC").any()


@pytest.mark.filterwarnings("ignore::hdeepinsight.data.GeneCoverageWarning")
def test_bundled_model_works_without_half_of_its_genes(cells):
    markers = {gene for names in MARKERS.values() for gene in names}
    rng = np.random.default_rng(1)
    kept = cells.var_names.isin(markers) | (rng.random(cells.n_vars) < 0.5)
    result = hdi.annotate(cells[:, kept].copy(), "pbmc", adapt="off", refine="off", reject="off")
    assert (result.labels["lineage"] == cells.obs["lineage"].to_numpy()).mean() >= 0.9


def test_ensembl_ids_alone_raise(cells):
    cells.var_names = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
    with pytest.raises(GeneMatchError, match="ensembl names and the model symbol names"):
        hdi.annotate(cells, adapt="off", refine="off")


def test_symbols_in_a_column_are_found(cells):
    expected = hdi.annotate(cells, adapt="off", refine="off").node_probabilities
    cells.var["gene_symbols"] = cells.var_names
    cells.var_names = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
    found = hdi.annotate(cells, adapt="off", refine="off").node_probabilities
    np.testing.assert_array_equal(found, expected)


def test_bundled_model_is_listed(tmp_path):
    table = hdi.hub.list_models(where="bundled")
    assert table["model"].tolist() == list(bundled_folders()) == ["immune", "pbmc"]
    assert table[["where", "organism", "tissues", "n_types"]].to_numpy().tolist() == [
        ["bundled", "human", "blood, bone marrow", "17"],
        ["bundled", "human", "blood", "8"],
    ]
    assert hdi.hub.list_models(where="here").empty


def test_listed_revision_pins_the_bundled_model():
    table = hdi.hub.list_models(where="bundled").set_index("model")
    revision = table.loc["pbmc", "revision"]
    assert hdi.hub.download("pbmc", revision).digest == revision
    with pytest.raises(hdi.hub.ChecksumError):
        hdi.hub.download("pbmc", "sha256:" + "0" * 64)


def test_folder_of_the_same_name_takes_precedence(tmp_path, monkeypatch):
    (tmp_path / "pbmc").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hdi.hub.resolve_model("pbmc").resolve() == tmp_path / "pbmc"
