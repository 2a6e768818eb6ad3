"""Predict the interferon response of a type that was left out: shifted topics against controls.

For every type with enough cells in both conditions, its stimulated cells are left out of training.
The shift of the topic scores is that of the other types; the change that the decoder makes of it is
compared with the true mean log fold change of the type left out (cosine and Pearson correlation
over all genes of the model). Controls: the mean true change of the other types, and the same shift
of principal components (latent arithmetic), decoded linearly.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.decomposition import PCA

import hdeepinsight as hdi

FILE, TYPE, CONDITION = "kang_ifnb_fullgenes.h5ad", "cell_type", "condition"
N_GENES, MIN_CELLS = 2000, 30
HERE = Path(__file__).resolve().parent


def measure(folder: Path, seed: int, n_types: int | None) -> list[dict]:
    """Leave out one type after the other."""
    adata = sc.read_h5ad(folder / FILE)
    log = adata.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    types = adata.obs[TYPE].astype(str).to_numpy()
    conditions = adata.obs[CONDITION].astype(str).to_numpy()
    _, treated = sorted(set(conditions), key=lambda c: "ctrl" not in c.lower())
    is_treated = conditions == treated
    sizes = {
        t: min((~is_treated & (types == t)).sum(), (is_treated & (types == t)).sum())
        for t in np.unique(types)
    }
    chosen = sorted((t for t, n in sizes.items() if n >= MIN_CELLS), key=lambda t: -sizes[t])
    rows = []
    for left_out in chosen[:n_types]:
        hidden = is_treated & (types == left_out)
        seen = log[~hidden].copy()
        sc.pp.highly_variable_genes(seen, n_top_genes=N_GENES)
        genes = seen.var_names[seen.var["highly_variable"]]
        values = np.asarray(log[:, genes].X.todense())

        def change(of: np.ndarray, name: str) -> np.ndarray:
            here = types == name
            return of[here & is_treated].mean(axis=0) - of[here & ~is_treated].mean(axis=0)

        others = [name for name in chosen if name != left_out]
        truth = change(values, left_out)
        found = {"mean of other types": np.mean([change(values, n) for n in others], axis=0)}
        pca = PCA(30, random_state=seed).fit(values[~hidden])
        parts = pca.transform(values)
        shift = np.mean([change(parts, name) for name in others], axis=0)
        found["shift of principal components"] = shift @ pca.components_

        cells = ad.AnnData(adata[~hidden, genes].X.copy())
        cells.var_names, cells.obs_names = genes, adata.obs_names[~hidden]
        hdi.SCE2TM.setup_anndata(cells)
        model = hdi.SCE2TM(cells, n_topics=30, seed=seed)
        model.train(accelerator="cpu", enable_progress_bar=False)
        scores = np.full((adata.n_obs, 30), np.nan, dtype=np.float32)
        scores[~hidden] = model.get_latent_representation()
        shift = np.mean([change(scores, name) for name in others], axis=0)
        start = np.flatnonzero((types == left_out) & ~is_treated)
        place = np.cumsum(~hidden) - 1
        perturbed = model.perturb_topics(
            place[start], model.topic_names, mode="shift", delta=shift.tolist()
        )
        # the decoder gives shares of log-normalised expression: bring them to its scale
        total = values[start].sum(axis=1).mean()
        after, before = np.exp(perturbed.after), np.exp(perturbed.before)
        found["shift of topics"] = ((after - before).mean() * total).to_numpy()
        found["shift of topics, log fold change"] = perturbed.log_fold_change.to_numpy()
        for name, predicted in found.items():
            cosine = predicted @ truth / np.linalg.norm(predicted) / np.linalg.norm(truth)
            rows.append(
                {
                    "left_out": left_out,
                    "seed": seed,
                    "method": name,
                    "cosine": round(float(cosine), 4),
                    "pearson": round(float(np.corrcoef(predicted, truth)[0, 1]), 4),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--types", type=int, help="leave out only the largest types")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("HDI_DATA", "../shared/data"))
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "topic_shift.json")
    args = parser.parse_args(argv)
    args.out.write_text(json.dumps(measure(args.data, args.seed, args.types), indent=1) + "\n")


if __name__ == "__main__":
    main()
