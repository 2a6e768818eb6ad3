"""The script that makes the bundled model makes it again, byte for byte."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import train_bundled

import hdeepinsight as hdi

STACK = ("scvi-tools", "torch", "lightning", "anndata", "numpy")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(params=list(train_bundled.BUNDLES))
def bundle(request):
    return train_bundled.BUNDLES[request.param]


def test_sources_are_named_and_unseen_ones_share_no_file_or_no_donor(bundle):
    for unseen in bundle.unseen:
        for source in bundle.training:
            assert source.file != unseen.file or set(unseen.donors) <= set(source.without)
            assert source.file != unseen.file or unseen.donors
    assert bundle.halved.name in {source.name for source in bundle.unseen}
    for source in (*bundle.training, *bundle.unseen):
        assert len(source.sha256) == 64
        assert source.origin
        assert source.license
        assert source.citation


def test_every_label_of_the_sources_is_one_of_the_tree(bundle):
    tree = bundle.taxonomy
    names = {tree.label(node) for node in range(1, tree.n_nodes)}
    for source in bundle.training:
        assert set(source.same.values()) <= names


def test_another_file_is_refused(tmp_path, bundle):
    (tmp_path / bundle.training[0].file).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"has the SHA-256 .* Valid is 60d97e64"):
        bundle.training[0].read(tmp_path, ())


def test_donors_and_cells_are_left_out(hdi_data):
    marrow = train_bundled.TRIANA
    donors = [replace(marrow, donors=("BM2",)), replace(marrow, without=("BM2",))]
    one, others = (source.read(hdi_data, ("HSPC", "NK")) for source in donors)
    assert one.n_obs + others.n_obs == marrow.read(hdi_data, ()).n_obs == 5290
    few = replace(marrow, most=100).read(hdi_data, ("HSPC", "NK"))
    assert few.obs["label"].value_counts().tolist() == [100, 100, 100]
    stem = replace(train_bundled.ZHENG, counted={"HSPC": "CD34"}).read(hdi_data, ("HSPC",))
    counted = stem[:, "CD34"].X.toarray().ravel() > 0
    assert counted[stem.obs["label"] == "HSPC"].all()
    assert (stem.obs["label"] == "HSPC").sum() == 241


def test_the_bundled_model_is_the_one_that_is_described(bundle):
    model = hdi.hub.pull(bundle.name)
    assert model.taxonomy == bundle.taxonomy
    assert model.recipe["n_genes"] == train_bundled.N_GENES


@pytest.mark.filterwarnings("ignore::hdeepinsight.data.GeneCoverageWarning")
@pytest.mark.slow
def test_it_is_made_again_byte_for_byte(hdi_data, tmp_path, bundle):
    recipe = hdi.hub.pull(bundle.name).recipe
    here = {name: version(name) for name in STACK}
    made = {name: recipe[name] for name in STACK}
    if here != made:
        pytest.skip(f"it was made with {made}, and here is {here}")
    command = ["--data", hdi_data, "--model", bundle.name, "--out", tmp_path / bundle.name]
    subprocess.run([sys.executable, train_bundled.__file__, *command], check=True)
    assert digests(tmp_path / bundle.name) == digests(train_bundled.BUNDLED / bundle.name)
