"""Pack the labelled PBMC 3k cells that the package carries.

``python benchmarks/pack_pbmc3k.py --data <folder>`` reads ``pbmc3k.h5ad`` (checked by SHA-256: the
counts and labels of rnabioco/clustifyr) and writes ``hdeepinsight/datasets/pbmc3k.h5``, always the
same bytes. Genes are rows: a gene is alike in all cells, so that it compresses to half of the size.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import anndata as ad
import h5py
import numpy as np

import hdeepinsight as hdi

SHA256 = "c60f5b9a5e8e1c52e83e93c9c3e0063ce2909b331d247afc219409e0f18354af"
PACKED = Path(hdi.__file__).parent / "datasets" / "pbmc3k.h5"


def main() -> None:
    """Read, check, pack."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pbmc3k.h5ad")
    parser.add_argument("--out", type=Path, default=PACKED)
    given = parser.parse_args()
    path = given.data / "pbmc3k.h5ad"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} has the SHA-256 {found}, expected {SHA256}.")
    adata = ad.read_h5ad(path)
    counts = adata.X.toarray().T.astype(np.uint16)
    labels = adata.obs["label_original"].astype(str).to_numpy()
    small = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    with h5py.File(given.out, "w") as file:
        file.create_dataset("counts", data=counts, chunks=(256, adata.n_obs), **small)
        for name, values in (
            ("gene", adata.var_names),
            ("cell", adata.obs_names),
            ("label", labels),
        ):
            file.create_dataset(name, data=np.asarray(values, dtype="S"), **small)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")
    print(f"SHA-256 {hashlib.sha256(given.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
