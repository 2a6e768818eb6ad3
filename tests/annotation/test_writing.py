"""Results in the hands of others: colours, ontology ids, and names that are taken."""

import warnings

import numpy as np
import pandas as pd
import pytest
from annotated_files import cells, saved

from hdeepinsight._palette import MISSING, PALETTE, label_colors
from hdeepinsight.taxonomy import Taxonomy

IDS = {"T": "CL:0000084", "CD4": "CL:0000624", "B": "CL:0000236"}


def color_of(adata, column):
    """Colours as scanpy reads them: in the order of the categories."""
    categories = adata.obs[column].cat.categories
    colors = list(adata.uns[f"{column}_colors"])
    assert len(colors) == len(categories)
    return dict(zip(categories, colors, strict=True))


def test_a_label_has_one_colour_in_every_column_and_call(ragged, annotated):
    adata, fewer = cells(), cells(7)
    annotated(ragged).to_adata(adata)
    annotated(ragged, n_cells=7, seed=5, threshold=None).to_adata(fewer, key_added="other")
    seen = {}
    for each, key in ((adata, "hdi"), (fewer, "other")):
        for name in (*ragged.level_names, "stop_label"):
            for label, color in color_of(each, f"{key}_{name}").items():
                assert seen.setdefault(label, color) == color
    assert seen["Unknown"] == MISSING
    known = [color for label, color in seen.items() if label != "Unknown"]
    assert len(set(known)) == len(known)
    # The top level has the most distinct colours, as in hdi.pl.taxonomy.
    top = [seen[ragged.label(int(node))] for node in ragged.children(0)]
    assert top == list(PALETTE[: len(top)])


def test_colours_are_unique_for_the_largest_tree_that_is_built_in():
    colors = label_colors(Taxonomy.immune().labels[1:])
    assert len(colors) > len(PALETTE)
    assert len(set(colors.values())) == len(colors)
    assert list(label_colors(map(str, range(105))).values())[104] == PALETTE[0]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_colours_survive_the_disk_and_follow_a_subset(tmp_path, two_levels, annotated, suffix):
    adata = cells()
    annotated(two_levels).to_adata(adata)
    read = saved(adata, tmp_path / f"colours{suffix}")
    whole = color_of(adata, "hdi_cell_type")
    assert color_of(read, "hdi_cell_type") == whole
    few = adata[adata.obs["hdi_cell_type"].isin(["CD8", "memory"]).to_numpy()].copy()
    assert color_of(few, "hdi_cell_type") == {name: whole[name] for name in ("CD8", "memory")}


def test_scanpy_draws_with_our_colours(two_levels, annotated):
    import matplotlib.pyplot as plt
    import scanpy as sc
    from matplotlib.colors import to_hex

    adata = cells()
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    adata.X = np.random.default_rng(1).random((60, 2)).astype(np.float32)
    annotated(two_levels).to_adata(adata)
    before = {key: list(adata.uns[key]) for key in adata.uns if key.endswith("_colors")}
    wanted = color_of(adata, "hdi_lineage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scanpy and matplotlib, about each other
        ax = sc.pl.umap(adata, color="hdi_lineage", show=False)
        drawn = {to_hex(color) for color in ax.collections[0].get_facecolors()}
        assert drawn == {color.lower() for color in wanted.values()}
        legend = [text.get_text() for text in ax.get_legend().get_texts()]
        assert legend == list(wanted)
        dots = sc.pl.dotplot(adata, ["0", "1"], groupby="hdi_cell_type", show=False)
        rows = [label.get_text() for label in dots["mainplot_ax"].get_yticklabels()]
        assert rows == list(adata.obs["hdi_cell_type"].cat.categories)
        violins = sc.pl.stacked_violin(adata, ["0", "1"], groupby="hdi_stop_label", show=False)
        assert "mainplot_ax" in violins
        bars = sc.pl.heatmap(adata, ["0", "1"], groupby="hdi_lineage", show=False)
        group = bars["groupby_ax"].images[0]
        found = {to_hex(group.cmap(group.norm(i))) for i in range(len(wanted))}
        assert found == {color.lower() for color in wanted.values()}
        plt.close("all")
    assert {key: list(adata.uns[key]) for key in before} == before


@pytest.fixture
def with_ids(two_levels) -> Taxonomy:
    return two_levels.with_annotations(ontology_ids=IDS)


def test_ids_are_those_of_the_nearest_label_that_has_one(with_ids, annotated):
    result = annotated(with_ids, seed=3, threshold=0.8)
    expected = {"CD8": IDS["T"], "gd": IDS["T"], "naive": IDS["B"], "memory": IDS["B"], **IDS}
    labels = result.labels["stop_label"].astype(str)
    assert result.ontology_term_ids.tolist() == [expected.get(name, "unknown") for name in labels]
    assert {"unknown", IDS["CD4"], IDS["T"]} <= set(result.ontology_term_ids)
    adata = cells()
    result.to_adata(adata)
    column = adata.obs["hdi_cell_type_ontology_term_id"]
    assert column.tolist() == result.ontology_term_ids.tolist()
    assert isinstance(column.dtype, pd.CategoricalDtype)
    assert set(column.cat.categories) == set(column)
    assert "cell_type_ontology_term_id" in result.to_frame()
    assert "cell_type_ontology_term_id" not in adata.obs


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_the_cellxgene_schema_gets_its_own_column(tmp_path, with_ids, annotated, suffix):
    adata, result = cells(), annotated(with_ids, seed=3)
    result.to_adata(adata, schema="cellxgene")
    read = saved(adata, tmp_path / f"schema{suffix}")
    column = read.obs["cell_type_ontology_term_id"]
    assert column.astype(str).tolist() == result.ontology_term_ids.tolist()
    assert isinstance(column.dtype, pd.CategoricalDtype)
    assert not column.isna().any()
    assert "cell_type" not in read.obs  # the portal adds it, and refuses files that have it


def test_ids_are_asked_for_only_where_there_are_some(two_levels, annotated):
    adata, result = cells(), annotated(two_levels)
    with pytest.raises(ValueError, match=r"no Cell Ontology ids.*with_annotations"):
        result.to_adata(adata, schema="cellxgene")
    with pytest.raises(ValueError, match="schema='hca'; valid is 'cellxgene'"):
        result.to_adata(adata, schema="hca")
    assert not len(adata.obs.columns)
    assert not adata.uns
    result.to_adata(adata)
    assert "hdi_cell_type_ontology_term_id" not in adata.obs


def test_the_immune_tree_gives_ids(annotated):
    immune = Taxonomy.immune()
    found = annotated(immune, threshold=None).ontology_term_ids
    assert found.str.startswith("CL:").mean() > 0.5
    assert set(found[~found.str.startswith("CL:")]) <= {"unknown"}


def test_columns_of_the_user_stay(with_ids, annotated):
    adata = cells(hdi_lineage=["mine"] * 60, cell_type_ontology_term_id=["CL:0000000"] * 60)
    adata.uns["hdi"] = "mine"
    before, result = adata.copy(), annotated(with_ids)
    taken = r"holds obs/cell_type_ontology_term_id, obs/hdi_lineage, uns/hdi already.*overwrite"
    with pytest.raises(ValueError, match=taken):
        result.to_adata(adata, schema="cellxgene")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert dict(adata.uns) == {"hdi": "mine"}
    assert not adata.obsm
    result.to_adata(adata, schema="cellxgene", overwrite=True)
    assert adata.obs["hdi_lineage"].tolist() == result.labels["lineage"].tolist()


def test_an_earlier_result_is_replaced_as_a_whole(tmp_path, with_ids, ragged, annotated):
    adata = cells(donor=["x"] * 60)
    annotated(with_ids).to_adata(adata, schema="cellxgene")
    adata = saved(adata, tmp_path / "first.h5ad")  # the record of what is ours is in the file
    second = annotated(ragged, seed=2)
    second.to_adata(adata)
    fresh = cells(donor=["x"] * 60)
    second.to_adata(fresh)
    assert set(adata.obs) == set(fresh.obs)  # nothing of the first tree is left beside the second
    assert set(adata.uns) == set(fresh.uns)
    assert adata.obs["hdi_stop_label"].tolist() == second.labels["stop_label"].tolist()
