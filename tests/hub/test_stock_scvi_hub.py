"""`scvi.hub.HubModel` loads, pushes and pulls published models."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from scvi.hub import HubMetadata, HubModel

import hdeepinsight as hdi


@pytest.fixture
def expected(shared_model, query):
    return shared_model.annotate(query).node_probabilities


@pytest.fixture
def folder(published_folder, home):
    """A copy, for scvi-tools writes into it."""
    return shutil.copytree(published_folder, home / "blood")


def quietly(call, *arguments, **options):
    """Call without the remark of scvi-tools that there is no collection for our class."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No collection found", UserWarning)
        return call(*arguments, **options)


def assert_same(hub_model, query, expected):
    model = hub_model.model
    assert type(model) is hdi.SCHDeepInsight
    assert model.adata is None, "a bundle without counts is no reference to train on"
    np.testing.assert_array_equal(model.annotate(query).node_probabilities, expected)


def test_a_folder(folder, query, expected):
    hub_model = HubModel(str(folder))
    assert_same(hub_model, query, expected)
    assert hub_model.metadata.model_parent_module == "hdeepinsight"
    assert hub_model.model_card.data.license == "cc-by-4.0"
    assert hub_model.adata.n_vars == 0, "no counts"


def test_metadata_is_what_scvi_tools_would_write(folder, tmp_path):
    written = json.loads((folder / "_scvi_required_metadata.json").read_text())
    metadata = HubMetadata(**written)
    metadata.save(str(tmp_path / "metadata.json"))
    assert asdict(metadata) == written
    again = (tmp_path / "metadata.json").read_text()
    assert again == (folder / "_scvi_required_metadata.json").read_text()


def test_pull_from_a_hub(published, query, expected):
    hub_model = HubModel.pull_from_huggingface_hub("atlas/blood", revision=published.revision)
    assert_same(hub_model, query, expected)


def test_push_to_a_hub(folder, fake_hub, writer, query, expected):
    quietly(
        HubModel(str(folder)).push_to_huggingface_hub,
        "atlas/pushed",
        repo_create=True,
        push_anndata=False,
    )
    # That way the data stay behind, which the list of checksums still names.
    with pytest.raises(hdi.hub.HubError, match=r"incomplete: adata\.h5ad"):
        hdi.hub.pull("atlas/pushed")
    fake_hub.repositories["atlas/pushed"].commit(
        "main", {path.name: path.read_bytes() for path in folder.iterdir()}
    )
    model = hdi.hub.pull("atlas/pushed")
    np.testing.assert_array_equal(model.annotate(query).node_probabilities, expected)


def test_bucket_there_and_back(folder, bucket, query, expected, tmp_path):
    HubModel(str(folder)).push_to_s3(bucket, "stock/blood")
    pulled = HubModel.pull_from_s3(bucket, "stock/blood", cache_dir=str(tmp_path))
    assert_same(pulled, query, expected)
    # scvi-tools sends no list of checksums, and we say so.
    with pytest.raises(hdi.hub.HubError, match=r"checksums\.sha256"):
        hdi.hub.pull(f"s3://{bucket}/stock/blood")


def test_pull_ours_from_a_bucket(shared_model, card, bucket, query, expected, tmp_path):
    hdi.hub.publish(shared_model, f"s3://{bucket}/blood", card=card)
    assert_same(HubModel.pull_from_s3(bucket, "blood", cache_dir=str(tmp_path)), query, expected)


@pytest.mark.slow
def test_another_process_needs_only_the_environment(published, query, expected, home):
    query.write_h5ad(home / "query.h5ad")
    code = """
        import sys
        import numpy as np
        from scvi.hub import HubModel
        import hdeepinsight as hdi
        revision, query, out = sys.argv[1:]
        stock = HubModel.pull_from_huggingface_hub("atlas/blood", revision=revision).model
        ours = hdi.hub.pull("atlas/blood", revision)
        values = [m.annotate(query).node_probabilities for m in (stock, ours)]
        np.save(out, np.stack(values))
        """
    command = [sys.executable, "-c", textwrap.dedent(code), published.revision]
    environment = {**os.environ, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [*command, str(home / "query.h5ad"), str(home / "out.npy")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for found in np.load(home / "out.npy"):
        np.testing.assert_allclose(found, expected, atol=1e-6)
