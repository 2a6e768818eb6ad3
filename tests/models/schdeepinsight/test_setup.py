"""Registration of a reference: accepted input, errors, and the repr."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hdeepinsight import SCHDeepInsight, Taxonomy
from hdeepinsight.data import InputError
from hdeepinsight.models import ModelFileError


def test_exactly_one_way_to_name_labels(reference):
    with pytest.raises(ValueError, match="got neither"):
        SCHDeepInsight.setup_anndata(reference)
    with pytest.raises(ValueError, match="got both"):
        SCHDeepInsight.setup_anndata(reference, labels_key="cell_type", labels_keys=["lineage"])


def test_one_column_of_levels_may_be_named_without_a_list(reference, labelled, model):
    SCHDeepInsight.setup_anndata(reference, labels_keys="cell_type")
    assert SCHDeepInsight(reference, layout="random").taxonomy.level_names == ("cell_type",)
    np.testing.assert_array_equal(
        model.label_nodes(labelled, labels_keys="cell_type"),
        model.label_nodes(labelled, labels_keys=["cell_type"]),
    )


@pytest.mark.parametrize("labels_key", [["lineage", "cell_type"], 3])
def test_labels_key_must_be_a_name(reference, labels_key):
    with pytest.raises(ValueError, match=r"must be the name of a column.*as labels_keys"):
        SCHDeepInsight.setup_anndata(reference, labels_key=labels_key)


def test_two_label_columns_of_one_name_are_refused(reference):
    reference.obs = pd.concat([reference.obs, reference.obs[["cell_type"]]], axis=1)
    with pytest.raises(ValueError, match=r"2 columns named 'cell_type'.*Rename or drop"):
        SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")


@pytest.mark.parametrize("name", ["confidence", "stop_label"])
def test_a_reserved_level_name_is_refused_before_training(reference, name):
    reference.obs = reference.obs.rename(columns={"cell_type": name})
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", name])
    with pytest.raises(ValueError, match=f"levels named .'{name}'.*or the label columns"):
        SCHDeepInsight(reference, layout="random")


@pytest.mark.parametrize("data", ["reference.h5ad", None])
def test_references_must_be_anndata(data):
    with pytest.raises(TypeError, match=r"must be of type AnnData, got \w+\. Read files"):
        SCHDeepInsight.setup_anndata(data, labels_key="cell_type")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_view_is_refused_and_not_copied(reference, tmp_path):
    view = reference[:200]
    with pytest.raises(ValueError, match=r"view of another AnnData.*Pass a copy"):
        SCHDeepInsight.setup_anndata(view, labels_key="cell_type")
    assert view.is_view
    assert not reference.uns
    pytest.importorskip("xarray")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "reference.h5ad")
    with pytest.raises(ValueError, match=r"read lazily\. Pass reference\.to_memory\(\)"):
        SCHDeepInsight.setup_anndata(lazy, labels_key="cell_type")


def test_a_missing_layer_names_those_that_are_there(reference):
    reference.layers["spliced"] = reference.X
    with pytest.raises(InputError, match=r"no layers\['counts'\].*It holds: X, layers"):
        SCHDeepInsight.setup_anndata(reference, layer="counts", labels_key="cell_type")


def test_a_missing_column_names_those_that_are_there(reference):
    with pytest.raises(KeyError, match="it has 'lineage', 'cell_type', 'batch'"):
        SCHDeepInsight.setup_anndata(reference, labels_key="celltype")


def test_scaled_values_are_refused(reference):
    reference.X = reference.X.toarray() - 1.5
    with pytest.raises(InputError, match="counts"):
        SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")


def test_a_label_unknown_to_the_taxonomy_is_named_with_its_count(reference):
    taxonomy = Taxonomy.from_nested({"B": ["B naive", "B memory"], "T": ["CD4 T", "CD8 T"]})
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
    with pytest.raises(ValueError, match="gd T") as caught:
        SCHDeepInsight(reference, taxonomy=taxonomy, layout="random")
    n = int((reference.obs["cell_type"] == "gd T").sum())
    assert str(n) in str(caught.value)


def test_one_column_of_types_makes_a_flat_taxonomy(reference):
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
    model = SCHDeepInsight(reference, layout="random")
    assert model.taxonomy.max_depth == 1
    assert model.taxonomy.n_leaves == 7


def test_a_name_at_two_levels_means_the_level_of_its_column(reference):
    reference.obs["cell_type"] = (
        reference.obs["cell_type"].astype(str).replace({"B naive": "B", "B memory": "B"})
    )
    taxonomy = Taxonomy.from_obs(reference, ["lineage", "cell_type"])
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
    model = SCHDeepInsight(reference, taxonomy=taxonomy, layout="random")
    nodes = model.label_nodes(reference)
    is_b = (reference.obs["cell_type"] == "B").to_numpy()
    assert (taxonomy.depth[nodes[is_b]] == 2).all()


def test_repr_summarises_the_model(reference):
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    text = repr(SCHDeepInsight(reference, layout="random"))
    for part in ("compact", "120 genes", "lineage (3), cell_type (7)", "not trained", "300 cells"):
        assert part in text


def test_missing_labels_are_counted_in_the_repr(reference, capsys, tmp_path):
    labels = reference.obs["cell_type"].astype(object)
    labels.iloc[:8] = np.nan
    reference.obs["cell_type"] = labels
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    model = SCHDeepInsight(reference, layout="random")
    assert (model.taxonomy.depth[model.label_nodes(reference)] == 1).sum() == 8
    assert repr(model).endswith("300 cells registered (8 without a label in 'cell_type')")
    model.save(tmp_path / "model")
    assert repr(SCHDeepInsight.load(tmp_path / "model")) == repr(model)
    model.train(max_epochs=1, validation_size=0, enable_progress_bar=False)
    model.save(tmp_path / "trained", prefix="own_")
    other = reference[100:].copy()  # with all labels
    loaded = SCHDeepInsight.load(tmp_path / "trained", adata=other, prefix="own_")
    assert repr(loaded) == repr(model)
    with pytest.raises(ModelFileError, match=r"holds own_model.pt: pass prefix='own_' to load"):
        SCHDeepInsight.load(tmp_path / "trained")


def test_the_registry_can_be_viewed(reference, capsys):
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type", batch_key="batch")
    model = SCHDeepInsight(reference, layout="random")
    model.view_anndata_setup()
    model.view_registry()
    model.view_setup_method_args()
    shown = capsys.readouterr().out
    assert "cell_type" in shown
    assert "batch" in shown
    assert model.summary_stats.n_batch == 2


def test_genes_to_keep_are_kept(reference):
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
    model = SCHDeepInsight(reference, layout="random", n_genes=20, keep_genes=["GENE119"])
    assert len(model.layout.genes) == 20
    assert "GENE119" in model.layout.genes
    with pytest.raises(InputError, match="NOT_THERE"):
        SCHDeepInsight(reference, layout="random", keep_genes=["NOT_THERE"])


@pytest.mark.parametrize("weighting", ["sometimes", [1.0], [1.0, -1.0], [0.0, 0.0]])
def test_bad_level_weights_are_refused(reference, weighting):
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    with pytest.raises(ValueError, match="weighting"):
        SCHDeepInsight(reference, layout="random", config={"weighting": weighting})


def test_an_unknown_backbone_lists_the_valid_ones(reference):
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
    with pytest.raises(ValueError, match="efficientnet_b0"):
        SCHDeepInsight(reference, layout="random", backbone="resnet")


def test_an_unknown_head_lists_the_valid_ones(reference):
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
    with pytest.raises(ValueError, match=r"head must be one of 'linear', 'per_parent'"):
        SCHDeepInsight(reference, layout="random", config={"head": "flat"})


@pytest.mark.parametrize("name", ["masking", "thinning", "modality_dropout"])
def test_options_of_another_type_are_refused(reference, name):
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
    options = {"config": {name: False}} if name == "modality_dropout" else {name: False}
    with pytest.raises(TypeError, match=r"must be None or a \w+, got False.*\.none\(\)"):
        SCHDeepInsight(reference, layout="random", **options)


def test_dense_and_integer_references_give_the_same_model(reference):
    counts, scales = reference.X, []
    for x in (counts, counts.toarray(), counts.astype(np.int64), sparse.csr_array(counts)):
        reference.X = x
        SCHDeepInsight.setup_anndata(reference, labels_keys=pd.Index(["lineage", "cell_type"]))
        model = SCHDeepInsight(reference, layout="random", n_latent=16)
        model.train(max_epochs=1, validation_size=0, enable_progress_bar=False)
        scales.append(model.module.normalizer.scale.numpy())
    assert all(np.array_equal(scale, scales[0]) for scale in scales)


def test_known_labels_are_read_from_any_columns_and_from_a_file(
    model, labelled, truth, tmp_path, monkeypatch
):
    expected = model.taxonomy.encode(truth)
    labelled.write_h5ad(tmp_path / "labelled.h5ad")
    for data in (labelled, tmp_path / "labelled.h5ad"):
        np.testing.assert_array_equal(model.label_nodes(data), expected)
    labelled.obs["mine"] = labelled.obs["cell_type"].astype(str).where(truth != "DC", "?")
    found = model.label_nodes(labelled, labels_keys=["mine"], unlabeled_category="?")
    np.testing.assert_array_equal(found, np.where(truth == "DC", 0, expected))
    whole = model.evaluate(labelled)
    for same in (tmp_path / "labelled.h5ad", model.open(labelled)):
        assert model.evaluate(same).levels.equals(whole.levels)
    half = labelled[::2].copy()
    some = model.evaluate(labelled, indices=slice(None, None, 2))
    assert some.levels.equals(model.evaluate(half).levels)
    with monkeypatch.context() as counting:
        opened, read_elem = [], ad.io.read_elem
        counting.setattr(ad.io, "read_elem", lambda at: opened.append(at.name) or read_elem(at))
        same = model.evaluate(tmp_path / "labelled.h5ad", indices=slice(None, None, 2))
    assert same.levels.equals(some.levels)
    assert opened.count("/obs") == 1
    with pytest.raises(TypeError, match=r"evaluate\(\) got labels_key; it takes labels_keys, "):
        model.evaluate(labelled, labels_key="mine")
    own = model.evaluate(labelled, labels_keys=["mine"], unlabeled_category="?")
    assert own.n_cells == (truth != "DC").sum() < whole.n_cells
    with pytest.raises(KeyError, match=r"no column 'none'; it has.*mine.*labels_keys"):
        model.evaluate(labelled, labels_keys=["none"])
