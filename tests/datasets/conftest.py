"""A minimal Census."""

import contextlib
import sys
import types

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

#: Cell Ontology id -> name and number of cells that are primary data, normal and of blood.
CENSUS_TYPES = {
    "CL:0000236": ("B cell", 30),
    "CL:0000895": ("naive thymus-derived CD4-positive, alpha-beta T cell", 40),
    "CL:0001054": ("CD14-positive monocyte", 8),
}


@pytest.fixture
def census_cells() -> ad.AnnData:
    """Cells with the columns of the Census, unsorted, including cells to be excluded."""
    parts = []
    for term, (name, n) in CENSUS_TYPES.items():
        common = {"cell_type_ontology_term_id": term, "cell_type": name}
        parts.append(pd.DataFrame({**common, "is_primary_data": [True] * n + [False] * 5}))
    obs = pd.concat(parts, ignore_index=True)
    obs["disease"], obs["tissue_general"] = "normal", "blood"
    obs.loc[[0, 1], "disease"] = "COVID-19"
    obs.loc[[2], "tissue_general"] = "lung"
    obs["donor_id"], obs["dataset_id"] = "d1", "study-1"
    obs["assay"], obs["suspension_type"] = "10x 3' v3", "cell"
    rng = np.random.default_rng(0)
    obs.insert(0, "soma_joinid", rng.permutation(np.arange(1000, 1000 + len(obs))))
    counts = sparse.csr_matrix(rng.poisson(1.0, (len(obs), 6)).astype(np.float32))
    var = pd.DataFrame(
        {
            "soma_joinid": range(6),
            "feature_id": [f"ENSG{i:011d}" for i in range(6)],
            "feature_name": [f"GENE{i}" for i in range(6)],
        }
    )
    var.index, obs.index = var.index.astype(str), obs.index.astype(str)
    return ad.AnnData(counts, obs=obs, var=var)


@pytest.fixture
def client(monkeypatch, census_cells):
    """The functions of ``cellxgene_census`` that are used, for these cells."""
    cells = census_cells
    module = types.ModuleType("cellxgene_census")
    module.opened = []

    @contextlib.contextmanager
    def open_soma(**place):
        module.opened.append(place)
        yield cells

    def get_obs(census, organism, *, value_filter, column_names):
        assert organism == "homo_sapiens"
        return census.obs.query(value_filter)[column_names].reset_index(drop=True)

    def get_anndata(census, organism, *, X_name, obs_coords, obs_column_names, var_column_names):
        assert X_name == "raw"
        found = census[census.obs["soma_joinid"].isin(obs_coords)].copy()
        found.obs, found.var = found.obs[obs_column_names], found.var[var_column_names]
        return found

    module.open_soma, module.get_obs, module.get_anndata = open_soma, get_obs, get_anndata
    monkeypatch.setitem(sys.modules, "cellxgene_census", module)
    return module
