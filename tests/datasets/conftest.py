"""A local file server with simulated failures, and a minimal Census."""

import contextlib
import gc
import sys
import threading
import types
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


class Files:
    """Contents by path, failures of the next requests, and received requests."""

    def __init__(self):
        self.contents, self.faults, self.requests = {}, [], []
        handler = type("Handler", (_Handler,), {"files": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def go_offline(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.files.requests.append(self.path)
        fault = self.files.faults.pop(0) if self.files.faults else None
        content = self.files.contents.get(self.path)
        if content is None or isinstance(fault, int):
            self.send_error(fault or 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "truncate" else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def files():
    """Server of a test."""
    server = Files()
    yield server
    server.go_offline()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty cache, without delays between retries."""
    monkeypatch.setenv("HDEEPINSIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield tmp_path / "datasets"
    with warnings.catch_warnings():
        # pooch does not close the connection of a failed response.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


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
