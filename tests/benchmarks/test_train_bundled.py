"""The script that makes the bundled model makes it again, byte for byte."""

import hashlib
from importlib.metadata import version

import pytest
import train_bundled

import hdeepinsight as hdi

STACK = ("scvi-tools", "torch", "lightning", "anndata", "numpy")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_training_and_unseen_data_share_no_file_and_no_study():
    training, unseen = (
        {source.file for source in sources}
        for sources in (train_bundled.TRAINING, train_bundled.UNSEEN)
    )
    assert not training & unseen
    assert train_bundled.HALVED in train_bundled.UNSEEN


def test_every_source_says_where_it_is_from():
    for source in (*train_bundled.TRAINING, *train_bundled.UNSEEN):
        assert len(source.sha256) == 64
        assert source.origin
        assert source.license
        assert source.citation


def test_another_file_is_refused(tmp_path):
    (tmp_path / train_bundled.TRAINING[0].file).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"has the SHA-256 .* Valid is 60d97e64"):
        train_bundled.TRAINING[0].read(tmp_path)


def test_the_bundled_model_is_the_one_that_is_described():
    model = hdi.hub.pull("pbmc")
    assert model.taxonomy == train_bundled.taxonomy()
    assert model.recipe["n_genes"] == train_bundled.N_GENES


@pytest.mark.filterwarnings("ignore::hdeepinsight.data.GeneCoverageWarning")
@pytest.mark.slow
def test_it_is_made_again_byte_for_byte(hdi_data, tmp_path):
    recipe = hdi.hub.pull("pbmc").recipe
    here = {name: version(name) for name in STACK}
    made = {name: recipe[name] for name in STACK}
    if here != made:
        pytest.skip(f"it was made with {made}, and here is {here}")
    train_bundled.build(hdi_data, tmp_path / "pbmc")
    assert digests(tmp_path / "pbmc") == digests(train_bundled.BUNDLED)
