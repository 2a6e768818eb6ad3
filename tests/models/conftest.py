"""Small trained models."""

from collections.abc import Callable
from dataclasses import fields

import anndata as ad
import numpy as np
import pytest

from hdeepinsight import SCHDeepInsight, SCLabelNet
from hdeepinsight.models import ModuleConfig

LEVELS = ["lineage", "cell_type"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="session")
def fit() -> Callable[..., SCHDeepInsight]:
    """Register, build and train; keyword arguments in dicts by step."""

    def run(
        adata: ad.AnnData,
        *,
        setup: dict | None = None,
        train: dict | None = None,
        **options: object,
    ) -> SCHDeepInsight:
        SCHDeepInsight.setup_anndata(adata, **(setup or {"labels_keys": LEVELS}))
        names = {field.name for field in fields(ModuleConfig)}
        config = {name: options.pop(name) for name in names & set(options)}
        model = SCHDeepInsight(adata, config=config, **({"layout": "random"} | options))
        defaults = {"max_epochs": 12, "batch_size": 32, "validation_size": 0.2, **QUIET}
        model.train(**defaults | (train or {}))
        return model

    return run


@pytest.fixture(scope="session")
def model(_synthetic_hierarchy: ad.AnnData, fit: Callable[..., SCHDeepInsight]) -> SCHDeepInsight:
    return fit(_synthetic_hierarchy[:300].copy())


@pytest.fixture(scope="session")
def fit_tokens():
    """Register, build and train on gene tokens."""

    def run(adata, *, setup=None, train=None, **options):
        SCLabelNet.setup_anndata(adata, **(setup or {"labels_keys": LEVELS}))
        model = SCLabelNet(adata, **options)
        defaults = {"max_epochs": 10, "batch_size": 32, "validation_size": 0.2, **QUIET}
        model.train(**defaults | (train or {}))
        return model

    return run


@pytest.fixture(scope="session")
def tokens_model(_synthetic_hierarchy, fit_tokens):
    return fit_tokens(_synthetic_hierarchy[:300].copy())


@pytest.fixture
def reference(_synthetic_hierarchy: ad.AnnData) -> ad.AnnData:
    """Labelled cells, not registered."""
    return _synthetic_hierarchy[:300].copy()


@pytest.fixture
def query(_synthetic_hierarchy: ad.AnnData) -> ad.AnnData:
    """Cells that were not used in training, without labels."""
    cells = _synthetic_hierarchy[300:].copy()
    cells.obs = cells.obs[[]]
    return cells


@pytest.fixture
def labelled(_synthetic_hierarchy: ad.AnnData) -> ad.AnnData:
    """Query cells with their labels."""
    return _synthetic_hierarchy[300:].copy()


@pytest.fixture
def truth(_synthetic_hierarchy: ad.AnnData) -> np.ndarray:
    return _synthetic_hierarchy.obs["cell_type"].astype(str).to_numpy()[300:]


@pytest.fixture
def network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable mean profiles, which are used because types have few cells here."""
    for model_class in (SCHDeepInsight, SCLabelNet):
        monkeypatch.setattr(model_class, "combined_profiles", None)
