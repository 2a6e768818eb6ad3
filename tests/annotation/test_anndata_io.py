"""Annotations in AnnData and on disk: names, colours and ontology ids."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from annotated_files import cells, saved
from matplotlib.colors import rgb_to_hsv, to_rgb
from scipy import sparse

from hdeepinsight._palette import MISSING, PALETTE, label_colors, tree_colors
from hdeepinsight.annotation import Additions, Annotation
from hdeepinsight.taxonomy import Taxonomy

ADDED = ["stop_label", "leaf", "confidence", "margin", "stop_depth", "stop_reason"]


def query(n_cells, prefix="cell_"):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(
        X=sparse.csr_matrix(rng.poisson(1.0, size=(n_cells, 6)).astype(np.float32)),
        obs=pd.DataFrame(
            {"donor": pd.Categorical(rng.choice(["x", "y"], n_cells))},
            index=[f"{prefix}{i}" for i in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"G{i}" for i in range(6)]),
        layers={"counts": np.ones((n_cells, 6), dtype=np.float32)},
        obsm={"X_pca": rng.normal(size=(n_cells, 2))},
        uns={"kept": {"answer": 42}},
    )
    return adata


def test_a_key_that_is_no_name_is_refused(two_levels, annotated):
    for key in ["", "  ", None, 3]:
        adata = query(60)
        with pytest.raises(ValueError, match="key_added must be a name such as 'hdi', got"):
            annotated(two_levels).to_adata(adata, key_added=key)
        assert adata.obs.columns.tolist() == ["donor"]


@pytest.mark.parametrize("key", ["hdi", "mine"])
def test_exactly_the_documented_keys_are_added(two_levels, annotated, key):
    adata, result = query(60), annotated(two_levels)
    before = adata.copy()
    assert result.to_adata(adata, key_added=key) is None
    added = [f"{key}_{name}" for name in ("lineage", "cell_type", *ADDED)]
    assert adata.obs.columns.tolist() == ["donor", *added]
    assert set(adata.obsm) == {"X_pca", f"{key}_probabilities"}
    colors = {f"{key}_{name}_colors" for name in ("lineage", "cell_type", "stop_label", "leaf")}
    assert set(adata.uns) == {"kept", key, *colors}
    assert set(adata.layers) == set(before.layers)
    assert adata.raw is None
    assert not {*adata.varm, *adata.obsp, *adata.varp}
    # What was there is bit-identical.
    assert (adata.X != before.X).nnz == 0
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    np.testing.assert_array_equal(adata.layers["counts"], before.layers["counts"])
    pd.testing.assert_frame_equal(adata.var, before.var)
    pd.testing.assert_frame_equal(adata.obs[["donor"]], before.obs)
    assert adata.uns["kept"] == {"answer": 42}


def test_the_user_guide_lists_every_column(two_levels, annotated):
    novelty = {"lineage_p_value": 0.5, "type_p_value": 0.5, "doublet_score": 0.1}
    novelty |= {"ambient_score": 0.1, "is_doublet": False, "is_ambient": True}
    tree = two_levels.with_annotations(ontology_ids=IDS)
    result = annotated(tree)
    novel = pd.DataFrame(novelty, index=result.obs_names)
    result = replace(result, novelty=novel, disagreement=np.full(len(novel), 0.1))
    page = Path(__file__).parents[2] / "docs/user_guide/annotation.md"
    rows = re.findall(r'^\| `(obs|obsm|uns)\["(\S+)"\]` \| (.*?) \|', page.read_text(), re.M)
    for details in (False, True):
        adata = query(60)
        result.to_adata(adata, details=details)
        listed = {
            f"{part}/{name.replace('<level>', level)}"
            for part, name, when in rows
            for level in two_levels.level_names
            if (details or when != "details") and "<column>" not in name
        }
        written = {f"{part}/{name}" for part in ("obs", "obsm") for name in getattr(adata, part)}
        assert written - {"obs/donor", "obsm/X_pca"} | {"uns/hdi"} == listed
        kinds = {f"{name}_colors" for name in adata.obs if name.startswith("hdi_")}
        assert set(adata.uns) - {"kept", "hdi"} <= kinds
        labels = {"hdi_lineage_colors", "hdi_stop_label_colors", "hdi_leaf_colors"}
        assert labels <= set(adata.uns)


def test_every_cell_has_a_colour_in_every_column_of_labels(ragged, annotated):
    adata, result = cells(), annotated(ragged, threshold=0.8)
    result.to_adata(adata)
    for level in ragged.level_names:
        assert adata.obs[f"hdi_{level}"].notna().all()
    holes = cells()
    result.to_adata(holes, fill=False)
    depth = result.stop_depth.to_numpy()
    for level, name in enumerate(ragged.level_names, start=1):
        missing = holes.obs[f"hdi_{name}"].isna().to_numpy()
        assert (missing == ((depth > 0) & (depth < level))).all()
        assert len(color_of(holes, f"hdi_{name}"))


def test_what_is_added_is_the_result(ragged, annotated):
    adata, result = query(60), annotated(ragged, recipe={"seed": 3})
    result.to_adata(adata)
    for name, column in result.to_frame().items():
        pd.testing.assert_series_equal(adata.obs[f"hdi_{name}"], column, check_names=False)
    pd.testing.assert_frame_equal(adata.obsm["hdi_probabilities"], result.probabilities())
    notes = adata.uns["hdi"]
    assert notes["decoder"] == "joint"
    assert notes["threshold"] == 0.5
    assert notes["recipe"] == {"seed": "3"}
    assert Taxonomy.from_json(notes["taxonomy"]) == ragged


def test_a_second_result_replaces_the_first(two_levels, annotated):
    adata = query(60)
    annotated(two_levels, seed=1).to_adata(adata)
    columns = adata.obs.columns.tolist()
    second = annotated(two_levels, seed=2, threshold=None)
    second.to_adata(adata)
    assert adata.obs.columns.tolist() == columns
    assert adata.obs["hdi_confidence"].tolist() == second.confidence.tolist()
    assert adata.uns["hdi"]["threshold"] == "none"


def test_other_cells_are_refused(two_levels, annotated):
    for adata in [query(59), query(60, prefix="other_"), query(60)[::-1].copy()]:
        before = adata.copy()
        with pytest.raises(ValueError, match=r"The annotation has 60 cells.*not the same.*reorder"):
            annotated(two_levels).to_adata(adata)
        assert adata.obs.columns.tolist() == before.obs.columns.tolist()
        assert set(adata.uns) == set(before.uns)


def test_an_annotated_object_survives_the_disk(tmp_path_factory, ragged, annotated):
    for n_cells in [60, 1, 0]:
        for suffix in [".h5ad", ".zarr"]:
            tmp_path = tmp_path_factory.mktemp("case")
            result = annotated(ragged, n_cells=n_cells, recipe={"model": "m", "epochs": 3})
            adata = query(n_cells)
            result.to_adata(adata)
            read = saved(adata, tmp_path / f"annotated{suffix}")
            for name, column in result.to_frame().items():
                stored = read.obs[f"hdi_{name}"]
                if isinstance(column.dtype, pd.CategoricalDtype):
                    stored, column = stored.astype(object), column.astype(object)
                    assert stored.fillna("-").tolist() == column.fillna("-").tolist()
                else:
                    np.testing.assert_array_equal(stored, column)
            table = read.obsm["hdi_probabilities"]
            assert table.columns.tolist() == result.probabilities().columns.tolist()
            np.testing.assert_array_equal(table.to_numpy(), result.probabilities().to_numpy())
            notes = read.uns["hdi"]
            assert Taxonomy.from_json(str(notes["taxonomy"])) == ragged
            assert {key: str(value) for key, value in notes["recipe"].items()} == {
                "model": "m",
                "epochs": "3",
            }


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_names_with_a_slash_survive_the_disk(tmp_path, annotated, suffix):
    """A published type is called Megakaryocytes/platelets; a slash is a folder in both formats."""
    taxonomy = Taxonomy.from_nested({"Mk/Plt": ["Mk/Plt", "Mk"], "B": []}, level_names=["a/b", "c"])
    result = annotated(taxonomy, n_cells=20, recipe={"path/key": 1})
    adata = query(20)
    result.to_adata(adata)
    read = saved(adata, tmp_path / f"slash{suffix}")
    columns = ["Mk|Plt", "B", "Mk|Plt > Mk|Plt", "Mk|Plt > Mk"]
    assert read.obsm["hdi_probabilities"].columns.tolist() == columns
    np.testing.assert_array_equal(
        read.obsm["hdi_probabilities"].to_numpy(), result.probabilities().to_numpy()
    )
    # Values keep their slash; only names of columns lose it.
    assert read.obs["hdi_a|b"].tolist() == result.labels["a/b"].tolist()
    assert "Mk/Plt" in set(read.obs["hdi_a|b"])
    assert set(read.uns["hdi"]["recipe"]) == {"path|key"}


def test_the_notes_are_plain(ragged, annotated):
    notes = annotated(ragged, recipe={"split": (1, 2), "seed": 0}).to_dict()
    assert json.loads(json.dumps(notes)) == notes
    assert set(notes) == {"decoder", "threshold", "taxonomy", "recipe"}


def test_reports_are_among_the_notes(two_levels, annotated):
    notes = annotated(two_levels, input_report="found counts", gene_report="all genes").to_dict()
    assert notes["input_report"] == "found counts"
    assert notes["gene_report"] == "all genes"


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
    tree = Taxonomy.immune()
    colors = tree_colors(tree.labels, tree.parent)
    assert colors.keys() == set(tree.labels[1:])
    assert len(set(colors.values())) == len(colors) > len(PALETTE)
    assert MISSING not in colors.values()


def test_a_branch_has_one_family_of_hues():
    tree = Taxonomy.immune()
    colors = tree_colors(tree.labels, tree.parent)
    hue = {label: rgb_to_hsv(to_rgb(color))[0] for label, color in colors.items()}
    for node in range(1, tree.n_nodes):
        if (parent := tree.parent[node]) > 0:
            apart = abs(hue[tree.label(node)] - hue[tree.label(int(parent))])
            assert min(apart, 1 - apart) < 0.15, tree.label(node)


def test_colours_of_classes_without_a_tree_repeat_after_104():
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
    names = {IDS["T"]: "T cell", IDS["B"]: "B cell", "unknown": "unknown"}
    terms = adata.obs["hdi_cell_type_ontology_term"].astype(str)
    for each, name in zip(column, terms, strict=True):
        assert name == names.get(each, "CD4-positive, alpha-beta T cell")
    assert "cell_type_ontology_term_id" in result.to_frame()
    assert "cell_type_ontology_term_id" not in adata.obs


def test_the_immune_tree_gives_ids(annotated):
    immune = Taxonomy.immune()
    found = annotated(immune, threshold=None).ontology_term_ids
    assert found.str.startswith("CL:").mean() > 0.5
    assert set(found[~found.str.startswith("CL:")]) <= {"unknown"}


def test_columns_of_the_user_stay(with_ids, annotated):
    adata = cells(hdi_lineage=["mine"] * 60)
    adata.uns["hdi"] = "mine"
    before, result = adata.copy(), annotated(with_ids)
    with pytest.raises(ValueError, match=r"already has obs/hdi_lineage, uns/hdi.*overwrite"):
        result.to_adata(adata)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert dict(adata.uns) == {"hdi": "mine"}
    assert not adata.obsm
    result.to_adata(adata, overwrite=True)
    assert adata.obs["hdi_lineage"].tolist() == result.labels["lineage"].tolist()


def test_an_earlier_result_is_replaced_as_a_whole(tmp_path, with_ids, ragged, annotated):
    adata = cells(donor=["x"] * 60)
    annotated(with_ids).to_adata(adata)
    adata = saved(adata, tmp_path / "first.h5ad")  # the record of what is ours is in the file
    second = annotated(ragged, seed=2)
    second.to_adata(adata)
    fresh = cells(donor=["x"] * 60)
    second.to_adata(fresh)
    assert set(adata.obs) == set(fresh.obs)  # nothing of the first tree is left beside the second
    assert set(adata.uns) == set(fresh.uns)
    assert adata.obs["hdi_stop_label"].tolist() == second.labels["stop_label"].tolist()


def test_an_error_in_the_middle_leaves_nothing_behind(two_levels, annotated, tmp_path):
    adata = cells(donor=["x"] * 60)
    first = annotated(two_levels, seed=1)
    first.to_adata(adata)
    before, second = adata.copy(), annotated(two_levels, seed=2)
    bad = Additions({"new": [1.0] * 60}, {"x": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="shape"):
        bad.write(adata, "hdi", second.to_dict())
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm) == list(before.obsm)
    assert set(adata.uns) == set(before.uns)
    assert Annotation.from_adata(adata).labels.equals(first.labels)
    saved(before, tmp_path / "cells.h5ad")
    view = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")[:]
    with pytest.raises(ValueError, match=r"view of a backed AnnData.*Pass adata\.to_memory\(\)"):
        second.to_adata(view)
    adata.obsm["hdi_probabilities"] = adata.obsm["hdi_probabilities"].to_numpy()  # as R leaves it
    assert Annotation.from_adata(adata).labels.equals(first.labels)


def test_table_is_written_atomically(two_levels, annotated, tmp_path, monkeypatch):
    path, result = tmp_path / "labels.csv", annotated(two_levels)
    path.write_text("old")

    def full(self, target, **options):
        Path(target).write_text("cut")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pd.DataFrame, "to_csv", full)
        with pytest.raises(OSError, match="No space"):
            result.to_csv(path)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["labels.csv"]
    result.to_csv(path)
    assert len(path.read_text().splitlines()) == 61
