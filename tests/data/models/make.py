"""Write the golden model of the present schema: run it once, when the schema changes."""

import json
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from hdeepinsight import SCHDeepInsight
from hdeepinsight.models._base._schema import SCHEMA_VERSION

TYPES = ["B", "CD4 T", "CD8 T"]
GENES = [f"GENE{i}" for i in range(16)]


def cells(n_a_type: int, seed: int) -> ad.AnnData:
    """Counts in which every type has four genes of its own."""
    rng = np.random.default_rng(seed)
    types = np.repeat(np.arange(len(TYPES)), n_a_type)
    mean = np.ones((len(types), len(GENES)))
    for i, kind in enumerate(types):
        mean[i, 4 * kind : 4 * kind + 4] = 12
    counts = rng.poisson(mean).astype(np.float32)
    names = [f"cell_{i}" for i in range(len(types))]
    obs = pd.DataFrame({"cell_type": [TYPES[kind] for kind in types]}, index=names)
    obs.insert(0, "lineage", obs["cell_type"].str.split().str[-1])
    return ad.AnnData(counts, obs=obs.astype("category"), var=pd.DataFrame(index=GENES))


def main() -> None:
    """Train, save, and write down what the model says about five cells."""
    warnings.simplefilter("ignore")
    reference = cells(40, seed=0)
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    model = SCHDeepInsight(reference, layout="random", n_latent=4, seed=0)
    model.train(20, validation_size=0.2, accelerator="cpu", enable_progress_bar=False)
    folder = Path(__file__).parent
    model.save(folder / f"schema_{SCHEMA_VERSION}", overwrite=True)
    query = cells(2, seed=1)
    expected = {
        "counts": query.X.astype(int).tolist(),
        "genes": GENES,
        "probabilities": model.predict_proba(query).to_numpy().tolist(),
        "rejected": model.annotate(query).rejected().labels.astype(str).to_numpy().tolist(),
    }
    path = folder / f"schema_{SCHEMA_VERSION}_expected.json"
    path.write_text(json.dumps(expected), encoding="utf-8")
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
