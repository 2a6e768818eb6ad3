"""Small models on gene tokens."""

import pytest

from hdeepinsight import SCLabelNet

LEVELS = ["lineage", "cell_type"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


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
