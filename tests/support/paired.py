"""The synthetic reference with surface proteins beside it."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd

#: Genes of the synthetic reference that get a name of their own.
RENAMED = {
    "GENE10": "CD3D",
    "GENE11": "CD3E",
    "GENE30": "MS4A1",
    "GENE55": "CD14",
    "GENE70": "PTPRC",
}
#: Protein: types that carry it. IgG1 is a control that none carries.
PANEL = {
    "CD3_TotalSeqB": ("CD4 T", "CD8 T", "gd T"),
    "CD20_TotalSeqB": ("B naive", "B memory"),
    "CD45RA_TotalSeqB": ("B naive", "CD4 T"),
    "CD45RO_TotalSeqB": ("B memory", "CD8 T"),
    "CD14_TotalSeqB": ("Mono classical",),
    "IgG1_TotalSeqB": (),
}


def make_mudata(rna, seed=0):
    """Paired proteins for the synthetic reference: 5 counts of background, 60 where carried."""
    rna = rna.copy()
    rna.var_names = [RENAMED.get(gene, gene) for gene in rna.var_names]
    types = rna.obs["cell_type"].astype(str).to_numpy()
    mean = np.array(
        [[60.0 if t in carriers else 5.0 for carriers in PANEL.values()] for t in types]
    )
    counts = np.random.default_rng(seed).poisson(mean).astype(np.float32)
    obs = rna.obs.astype(str)
    rna.obs = rna.obs[[]]
    proteins = ad.AnnData(counts, obs=rna.obs.copy(), var=pd.DataFrame(index=list(PANEL)))
    mdata = md.MuData({"rna": rna, "prot": proteins})
    for column in obs:
        mdata.obs[column] = obs[column].to_numpy()
    return mdata


def subset(mdata, cells=slice(None), modalities=("rna", "prot"), proteins=slice(None)):
    """Modalities of some cells, without labels, as a MuData of its own."""
    parts = {name: mdata.mod[name][cells].copy() for name in modalities}
    if "prot" in parts:
        parts["prot"] = parts["prot"][:, proteins].copy()
    return md.MuData(parts)
