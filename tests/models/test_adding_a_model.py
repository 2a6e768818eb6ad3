"""The example model of the guide is trained, saved and loaded."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from hdeepinsight.models import load_model

SOURCE = Path(__file__).parents[2] / "docs" / "examples" / "count_autoencoder.py"
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def model_class():
    spec = spec_from_file_location("count_autoencoder", SOURCE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CountAutoencoder


@pytest.fixture
def trained(model_class, synthetic_hierarchy):
    model_class.setup_anndata(synthetic_hierarchy)
    model = model_class(synthetic_hierarchy, n_hidden=32, n_latent=8, seed=0)
    model.train(max_epochs=10, batch_size=64, **QUIET)
    return model


def test_lineages_are_apart_in_its_latent_space(trained, synthetic_hierarchy):
    z = trained.get_latent_representation()
    assert z.shape == (synthetic_hierarchy.n_obs, 8)
    lineage = synthetic_hierarchy.obs["lineage"].to_numpy()
    nearest = np.linalg.norm(z[:, None] - z[None], axis=2).argsort(axis=1)[:, 1]
    assert np.mean(lineage[nearest] == lineage) > 0.6  # 0.35 by chance
    history = trained.history["train_loss"].to_numpy().ravel()
    assert history[-1] < history[0]


def test_it_is_saved_and_loaded_without_naming_its_class(trained, synthetic_hierarchy, tmp_path):
    trained.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert type(loaded) is type(trained)
    query = synthetic_hierarchy[:20, ::-1].copy()
    np.testing.assert_allclose(
        loaded.get_latent_representation(query),
        trained.get_latent_representation()[:20],
        rtol=1e-5,
        atol=1e-5,
    )
