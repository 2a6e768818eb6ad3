"""RNA and surface proteins: registration, identities, and queries with missing modalities."""

import hashlib
from dataclasses import fields

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from paired import RENAMED, make_mudata, subset
from scipy import sparse

from hdeepinsight import SCHDeepInsight
from hdeepinsight.data import InputError, ProteinCoverageWarning, own_columns
from hdeepinsight.hub import load_annotator
from hdeepinsight.models import Annotator, ModuleConfig

LEVELS = ["lineage", "cell_type"]


def fingerprint(mdata):
    """Hash of the whole object."""
    found = hashlib.sha256()
    for name, part in mdata.mod.items():
        matrix = part.X.toarray() if sparse.issparse(part.X) else part.X
        found.update(name.encode() + matrix.tobytes())
        found.update(str((part.obs.to_csv(), part.var.to_csv(), sorted(part.uns))).encode())
        found.update(str((sorted(filter(None, part.layers)), sorted(part.obsm))).encode())
    found.update(str((mdata.obs.to_csv(), mdata.var.to_csv(), sorted(mdata.obsm))).encode())
    return found.hexdigest()


@pytest.fixture(scope="module", autouse=True)
def _quiet_mudata():
    with own_columns():
        yield


@pytest.fixture(scope="module")
def paired(_synthetic_hierarchy):
    return make_mudata(_synthetic_hierarchy)


@pytest.fixture(scope="module")
def fit_joint():
    def run(mdata, *, setup=None, train=None, **options):
        SCHDeepInsight.setup_mudata(mdata, **({"labels_keys": LEVELS} | (setup or {})))
        names = {field.name for field in fields(ModuleConfig)}
        config = {name: options.pop(name) for name in names & set(options)}
        model = SCHDeepInsight(mdata, config=config, **({"layout": "random"} | options))
        quiet = {"enable_progress_bar": False, "accelerator": "cpu", "validation_size": 0.2}
        model.train(**({"max_epochs": 12, "batch_size": 32} | quiet | (train or {})))
        return model

    return run


@pytest.fixture(scope="module")
def joint(paired, fit_joint):
    return fit_joint(paired[:300].copy(), n_latent=256)


@pytest.fixture
def query(paired):
    return subset(paired, slice(300, None))


@pytest.fixture(scope="module")
def truth(paired):
    return paired.obs["cell_type"].astype(str).to_numpy()[300:]


def accuracy(model, query, truth):
    return (model.predict(query, level="cell_type").astype(str).to_numpy() == truth).mean()


def test_proteins_are_at_their_genes(joint):
    assert joint.proteins == ("CD14", "CD20", "CD3", "CD45RA", "CD45RO", "IgG1")
    gene = dict(zip(joint.layout.genes, joint.layout.pixel, strict=True))
    protein = dict(zip(joint.proteins, joint.protein_layout.pixel, strict=True))
    assert protein["CD14"] == gene["CD14"]
    assert protein["CD20"] == gene["MS4A1"]
    assert gene["PTPRC"] in (protein["CD45RA"], protein["CD45RO"])
    assert protein["IgG1"] not in joint.layout.pixel
    assert joint.protein_layout.report["unplaced"] == 1.0


def test_genes_of_the_panel_are_kept_in_a_small_layout(paired):
    mdata = paired[:60].copy()
    SCHDeepInsight.setup_mudata(mdata, labels_keys=LEVELS)
    model = SCHDeepInsight(mdata, layout="random", n_genes=20)
    assert set(RENAMED.values()) <= set(model.layout.genes)
    assert len(model.layout.genes) == 20


def test_both_modalities_are_used(joint, query, paired, truth):
    assert accuracy(joint, query, truth) > 0.9
    assert accuracy(joint, query.mod["rna"], truth) > 0.8
    shuffled = subset(paired, slice(300, None))
    order = np.random.default_rng(0).permutation(shuffled.n_obs)
    shuffled.mod["prot"].X = shuffled.mod["prot"].X[order]
    assert accuracy(joint, shuffled, truth) < accuracy(joint, query, truth)


def test_a_saved_model_annotates_both_modalities_without_scvi_tools(joint, query, tmp_path):
    joint.save(tmp_path)
    annotator = load_annotator(tmp_path)
    assert type(annotator) is Annotator
    query.write(tmp_path / "query.h5mu")
    for given in (query, query.mod["rna"], tmp_path / "query.h5mu"):
        found = annotator.annotate(given).node_probabilities
        np.testing.assert_array_equal(found, joint.annotate(given).node_probabilities)


def test_proteins_alone_distinguish_lineages(joint, paired):
    """The panel distinguishes lineages, of which the largest has half of the cells."""
    alone = subset(paired, slice(300, None), ["prot"])
    result = joint.annotate(alone, threshold=None)
    lineage = paired.obs["lineage"].astype(str).to_numpy()[300:]
    assert (result.labels["lineage"].astype(str).to_numpy() == lineage).mean() > 0.8
    assert result.gene_report.n_measured == 0
    assert "No RNA modality" in " ".join(result.gene_report.messages)


def masked(model, query):
    """The joint query, with every protein marked as not measured."""
    counts = model.annotate(query.mod["rna"])  # to align genes once
    assert counts.gene_report.coverage == pytest.approx(1.0)
    genes = query.mod["rna"][:, list(model.layout.genes)].X.toarray()
    proteins = torch.from_numpy(np.ascontiguousarray(query.mod["prot"].X))
    return (
        model.module.eval()
        .predict(
            torch.from_numpy(genes),
            torch.ones(genes.shape[1]),
            proteins=proteins,
            proteins_measured=torch.zeros_like(proteins),
        )["probabilities"]
        .numpy()
    )


def test_a_query_without_proteins_is_one_with_all_of_them_masked(joint, query, paired):
    expected = masked(joint, query)
    rna = query.mod["rna"]
    for given in (rna, subset(paired, slice(300, None), ["rna"])):
        found = joint.annotate(given).node_probabilities
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_zero_stained_cells_are_as_cells_without_proteins(joint, query):
    query.mod["prot"].X[:5] = 0
    with_zeros = joint.annotate(query).node_probabilities
    rna_alone = joint.annotate(query.mod["rna"]).node_probabilities
    np.testing.assert_array_equal(with_zeros[:5], rna_alone[:5])
    assert not np.allclose(with_zeros[5:], rna_alone[5:])


def test_a_cell_does_not_depend_on_the_others(joint, query, paired):
    whole = joint.predict_proba(query)
    few = joint.predict_proba(subset(paired, slice(300, 307)))
    np.testing.assert_allclose(whole.iloc[:7], few, atol=1e-6)
    small = joint.predict_proba(query, batch_size=3)
    np.testing.assert_allclose(whole, small, atol=1e-6)


def test_the_order_of_proteins_and_cells_does_not_matter(joint, query, paired):
    expected = joint.predict_proba(query)
    turned = subset(paired, slice(300, None), proteins=slice(None, None, -1))
    pd.testing.assert_frame_equal(joint.predict_proba(turned), expected)
    parts = {"rna": query.mod["rna"], "prot": query.mod["prot"][::-1].copy()}
    shuffled = md.MuData(parts)
    found = joint.predict_proba(shuffled).loc[expected.index]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_permuted_proteins_train_the_same_model(paired, fit_joint):
    quick = {"train": {"max_epochs": 1, "validation_size": 0}}
    first = fit_joint(paired[:80].copy(), **quick)
    turned = subset(paired, slice(0, 80), proteins=slice(None, None, -1))
    for column in paired.obs:
        turned.obs[column] = paired.obs[column].to_numpy()[:80]
    second = fit_joint(turned, **quick)
    assert second.protein_layout == first.protein_layout
    for name, weights in first.module.state_dict().items():
        assert torch.equal(weights, second.module.state_dict()[name]), name


def test_names_of_other_vendors_are_understood(joint, query):
    expected = joint.predict_proba(query)
    renamed = ["CD3:UCHT1|CD3E|AHS0231|pAbO", "CD20_2H7", "Hu.CD45RA", "anti-CD45RO", "A0081-CD14"]
    query.mod["prot"].var_names = [*renamed, "IgG1"]
    query.update()
    pd.testing.assert_frame_equal(joint.predict_proba(query), expected)


def test_missing_proteins_are_masked_and_reported(joint, paired):
    result = joint.annotate(subset(paired, slice(300, None), proteins=[0, 4]))
    assert "2 of 6 proteins measured, in 120 of 120 cells." in result.gene_report.messages
    assert np.isfinite(result.node_probabilities).all()


def test_cells_that_lack_a_modality(joint, query, paired):
    """The first ten cells lack RNA, the last ten proteins."""
    parts = {"rna": query.mod["rna"][10:].copy(), "prot": query.mod["prot"][:-10].copy()}
    ragged = md.MuData(parts)
    found = joint.predict_proba(ragged)
    assert len(found) == 120
    names = query.obs_names
    both, rna = joint.predict_proba(query), joint.predict_proba(query.mod["rna"])
    proteins = joint.predict_proba(subset(paired, slice(300, None), ["prot"]))
    for cells, expected in ((names[10:-10], both), (names[-10:], rna), (names[:10], proteins)):
        np.testing.assert_allclose(found.loc[cells], expected.loc[cells], atol=1e-6)


def test_a_saved_model_annotates_the_same_and_needs_no_data(joint, query, tmp_path):
    joint.save(tmp_path / "model")
    loaded = SCHDeepInsight.load(tmp_path / "model")
    assert loaded.adata is None
    assert loaded.proteins == joint.proteins
    for given in (query, query.mod["rna"]):
        pd.testing.assert_frame_equal(loaded.predict_proba(given), joint.predict_proba(given))
    assert repr(loaded) == repr(joint)


def test_the_reference_is_saved_and_attached(joint, tmp_path):
    joint.save(tmp_path / "both", save_anndata=True)
    loaded = SCHDeepInsight.load(tmp_path / "both")
    assert loaded.adata.n_obs == 300
    assert loaded.evaluate().n_cells == len(joint.validation_indices)
    loaded.train(max_epochs=1, validation_size=0.2, enable_progress_bar=False, accelerator="cpu")


def test_a_file_is_annotated_as_the_object(joint, query, tmp_path):
    query.write_h5mu(tmp_path / "query.h5mu")
    found = joint.predict_proba(tmp_path / "query.h5mu")
    pd.testing.assert_frame_equal(found, joint.predict_proba(query), check_names=False)


def test_nothing_is_written_to_the_users_object(joint, query, paired, fit_joint):
    before = fingerprint(query)
    joint.annotate(query)
    joint.get_latent_representation(query)
    assert fingerprint(query) == before
    reference = paired[:150].copy()
    before = fingerprint(reference)
    fit_joint(reference, train={"max_epochs": 1}).evaluate()
    assert fingerprint(reference) == before


def test_evaluate_reads_labels_of_a_mudata(joint, paired):
    scores = joint.evaluate(paired[300:])
    assert scores.n_cells == 120
    cells = subset(paired, slice(300, None))
    cells.mod["rna"].obs["own"] = paired.obs["cell_type"].to_numpy()[300:]
    cells.mod["prot"].obs["own"] = "B"
    own = joint.evaluate(cells, labels_keys=["rna:own"])
    assert own.levels.loc["cell_type"].equals(scores.levels.loc["cell_type"])
    assert joint.evaluate().n_cells == len(joint.validation_indices)


def test_labels_may_be_in_the_rna_modality(paired, fit_joint):
    mdata = subset(paired, slice(0, 80))
    for column in LEVELS:
        mdata.mod["rna"].obs[column] = paired.obs[column].to_numpy()[:80]
    model = fit_joint(mdata, train={"max_epochs": 1, "validation_size": 0})
    assert model.taxonomy.n_leaves == 7


def test_a_model_of_rna_takes_the_rna_of_a_mudata(paired, fit, query):
    reference = paired.mod["rna"][:80].copy()
    reference.obs = paired.obs[:80].copy()
    model = fit(reference, train={"max_epochs": 1, "validation_size": 0})
    assert model.proteins == ()
    rna = query.mod["rna"]
    pd.testing.assert_frame_equal(model.predict_proba(query), model.predict_proba(rna))


def test_the_wide_path_reads_proteins_too(paired, fit_joint):
    mdata = paired[:150].copy()
    model = fit_joint(mdata, backbone=None, wide=True)
    weights = model.module.wide_proteins.weight
    assert weights.shape == (model.taxonomy.n_edges, 6)
    assert float(weights.detach().abs().max()) > 0
    assert model.predict_proba(mdata).shape[0] == 150


def test_bad_references_are_refused(paired):
    for change, setup, error, message in [
        (
            lambda m: m.mod["prot"].__setattr__("X", m.mod["prot"].X - 9.5),
            {},
            InputError,
            "modality 'prot': X looks scaled",
        ),
        (lambda m: m.mod["prot"].__setattr__("X", m.mod["prot"].X * 0), {}, InputError, "zero"),
        (
            None,
            {"modalities": {"protein_layer": "adt"}},
            InputError,
            "no modality 'adt'.*It has: 'rna', 'prot'",
        ),
        (
            None,
            {"modalities": {"protein": "prot"}},
            TypeError,
            "modalities got protein; it takes rna_layer, protein_layer",
        ),
        (
            None,
            {"modalities": {"rna_layer": "rna", "protein_layer": "rna"}},
            InputError,
            "'rna' is given for both.*there are 'rna', 'prot'",
        ),
        (None, {"layer": "counts"}, TypeError, r"setup_mudata\(\) got layer; it takes rna_layer, "),
        (None, {"labels_keys": ["typo"]}, KeyError, "no column 'typo'; it has .*cell_type"),
        (None, {"labels_keys": None}, ValueError, "got neither"),
    ]:
        mdata = paired[:60].copy()
        if change is not None:
            change(mdata)
        with pytest.raises(error, match=message):
            SCHDeepInsight.setup_mudata(mdata, **({"labels_keys": LEVELS} | setup))


@pytest.mark.filterwarnings("ignore:The HDF5 file was not created")
def test_references_must_be_mudata(paired):
    cells = paired.mod["rna"]
    for wrong in (cells, "reference.h5mu", None):
        with pytest.raises(TypeError, match=f"must be of type MuData, got {type(wrong).__name__}"):
            SCHDeepInsight.setup_mudata(wrong, labels_keys=LEVELS)


@pytest.mark.filterwarnings("ignore:The HDF5 file was not created")
def test_the_format_is_detected_from_the_content(paired, joint, tmp_path):
    cells = paired.mod["rna"]
    cells.write_h5ad(tmp_path / "cells.h5mu")
    found = joint.annotate(tmp_path / "cells.h5mu").labels
    assert found.equals(joint.annotate(cells).labels)


def test_errors_about_a_query_name_the_modality(joint, query):
    spoilt = query.copy()
    spoilt.mod["prot"].X = spoilt.mod["prot"].X - 9.5
    with pytest.raises(InputError, match="In the modality 'prot': X looks scaled"):
        joint.annotate(spoilt)


def test_a_reference_whose_cells_lack_rna_is_refused(paired):
    parts = {"rna": paired.mod["rna"][5:60].copy(), "prot": paired.mod["prot"][:60].copy()}
    mdata = md.MuData(parts)
    with pytest.raises(InputError, match="5 of the 60 cells have no RNA"):
        SCHDeepInsight.setup_mudata(mdata, labels_keys=LEVELS)


def test_reference_cells_without_proteins_train_from_their_rna(paired, fit_joint):
    parts = {"rna": paired.mod["rna"][:120].copy(), "prot": paired.mod["prot"][:60].copy()}
    mdata = md.MuData(parts)
    obs = paired.obs.loc[mdata.obs_names]
    for column in obs:
        mdata.obs[column] = obs[column].to_numpy()
    model = fit_joint(mdata, train={"max_epochs": 2, "validation_size": 0})
    assert np.isfinite(model.predict_proba(mdata)).all(axis=None)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda p: p[:, :0].copy(), id="no_columns"),
        pytest.param(lambda p: ad.AnnData(p.X * 0, p.obs, p.var), id="zeros"),
        pytest.param(
            lambda p: ad.AnnData(p.X, p.obs, pd.DataFrame(index=[f"odd{i}" for i in range(6)])),
            id="no_name_matches",
        ),
    ],
)
def test_useless_proteins_leave_the_rna_and_a_warning(joint, query, spoil):
    expected = joint.annotate(query.mod["rna"]).node_probabilities
    parts = {"rna": query.mod["rna"], "prot": spoil(query.mod["prot"])}
    spoiled = md.MuData(parts)
    with pytest.warns(ProteinCoverageWarning, match="RNA alone"):
        result = joint.annotate(spoiled)
    np.testing.assert_array_equal(result.node_probabilities, expected)


def test_a_query_without_features_of_the_model_is_refused(model, joint, query, paired):
    alone = subset(paired, slice(300, None), ["prot"])
    with pytest.raises(InputError, match="The model needs RNA"):
        model.annotate(alone)
    alone.mod["prot"].var_names = [f"odd{i}" for i in range(6)]
    alone.update()
    with pytest.warns(ProteinCoverageWarning), pytest.raises(InputError, match="no protein that"):
        joint.annotate(alone)
