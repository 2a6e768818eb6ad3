"""One set of files a pair, which every method reads: reference, query, genes; truth stays apart.

A folder of prepared files holds::

    reference.h5ad      counts, obs: the levels and "batch"
    query.h5ad          counts, obs: "batch" alone; cells shuffled and renamed
    query_0.50_s1.h5ad  the same cells without a random half of the reference's genes, seed 1
    genes.json          genes of the controls "on the same genes", chosen on the reference alone
    truth/labels.csv    labels of the query, in its order: read by the scorer, never by a method
    pair.json           what the files were made from
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from .genes import RULE, select_genes
from .pairs import Cells, Pair

#: Genes of the controls, unless the reference has fewer.
N_GENES = 4096


@dataclass(frozen=True)
class Prepared:
    """Where the files of one pair lie."""

    pair: Pair
    folder: Path

    @property
    def reference(self) -> Path:
        """Labelled reference."""
        return self.folder / "reference.h5ad"

    @property
    def query(self) -> Path:
        """Query without labels."""
        return self.folder / "query.h5ad"

    @property
    def genes(self) -> Path:
        """Gene list of the controls."""
        return self.folder / "genes.json"

    def reference_labels(self) -> pd.DataFrame:
        """Labels of the reference, one column a level."""
        obs = ad.read_h5ad(self.reference, backed="r").obs
        return _label_table(obs, self.pair)

    def truth(self) -> pd.DataFrame:
        """Labels of the query, one column a level, ``""`` where missing."""
        return pd.read_csv(self.folder / "truth" / "labels.csv", dtype=str, keep_default_na=False)

    def reduced_query(self, share: float, seed: int) -> Path:
        """Write (once) the query without a random `share` of the reference's genes.

        The order in which genes leave depends on the pair and seed alone, so the genes missing at
        25 % are also missing at 50 %, and every method lacks the same ones.
        """
        path = self.folder / f"query_{share:.2f}_s{seed}.h5ad"
        if not path.exists():
            query = ad.read_h5ad(self.query)
            names = np.array(sorted(ad.read_h5ad(self.reference, backed="r").var_names))
            leaving = np.random.default_rng(seed).permutation(names)[: round(share * len(names))]
            query[:, ~query.var_names.isin(leaving)].copy().write_h5ad(path)
        return path


def prepare(pair: Pair, data: Path, work: Path) -> Prepared:
    """Write the files of a pair below `work`, unless they are there and up to date."""
    prepared = Prepared(pair, Path(work) / "pairs" / pair.name)
    made_from = {"pair": pair.to_dict(), "files": _fingerprints(pair, Path(data))}
    made_from["genes"] = {"rule": RULE, "at_most": N_GENES}
    record = prepared.folder / "pair.json"
    if record.exists() and json.loads(record.read_text()) == json.loads(json.dumps(made_from)):
        return prepared
    (prepared.folder / "truth").mkdir(parents=True, exist_ok=True)
    for stale in prepared.folder.glob("*.h5ad"):
        stale.unlink()
    reference = _labelled(_read(pair.reference, Path(data)), pair)
    query = _read(pair.query, Path(data))
    query = query[np.random.default_rng(0).permutation(query.n_obs)]
    _bare(reference, pair, labels=True).write_h5ad(prepared.reference)
    _bare(query, pair, labels=False).write_h5ad(prepared.query)
    _label_table(query.obs, pair).to_csv(prepared.folder / "truth" / "labels.csv", index=False)
    prepared.genes.write_text(json.dumps(select_genes(reference, N_GENES)))
    record.write_text(json.dumps(made_from, indent=1))
    return prepared


def _fingerprints(pair: Pair, data: Path) -> list[list]:
    files = [data / pair.reference.file, data / pair.query.file]
    return [[f.name, f.stat().st_size, f.stat().st_mtime] for f in files]


def _read(cells: Cells, data: Path) -> ad.AnnData:
    adata = ad.read_h5ad(data / cells.file)
    kept = np.ones(adata.n_obs, dtype=bool)
    for column, values in cells.where.items():
        kept &= adata.obs[column].isin(values).to_numpy()
    if not kept.any():
        raise ValueError(
            f"no cell of {cells.file} has {cells.where}. The filter has to leave some cells. "
            "Correct `where` in the pairs file."
        )
    return adata[kept].copy()


def _labelled(reference: ad.AnnData, pair: Pair) -> ad.AnnData:
    """Drop reference cells without any label, or with one that the pair ignores."""
    labels = _label_table(reference.obs, pair)
    usable = (labels.iloc[:, 0] != "") & ~labels.isin(pair.ignore_labels).any(axis=1)
    return reference[usable.to_numpy()].copy()


def _label_table(obs: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    """Labels as plain strings with ``""`` for missing ones; the index is dropped."""
    absent = [level for level in pair.levels if level not in obs]
    if absent:
        raise ValueError(
            f"pair {pair.name!r} names the levels {absent}, which obs lacks. Its columns are "
            f"{list(obs.columns)}. Correct `levels` in the pairs file."
        )
    columns = {level: obs[level].astype(object).fillna("").astype(str) for level in pair.levels}
    return pd.DataFrame({level: column.to_numpy() for level, column in columns.items()})


def _bare(adata: ad.AnnData, pair: Pair, *, labels: bool) -> ad.AnnData:
    """Keep counts, gene names and batch, labels only if asked for, and nothing else of the file."""
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    if counts.nnz and (counts.data.min() < 0 or np.any(counts.data != np.round(counts.data))):
        raise ValueError(
            f"pair {pair.name!r} has values in X that are no counts. The benchmark needs "
            "non-negative integers, because methods normalise as they wish. Put raw counts in X."
        )
    batch = adata.obs[pair.batch_key].astype(str) if pair.batch_key in adata.obs else "one"
    obs = pd.DataFrame({"batch": batch}, index=adata.obs_names)
    if labels:
        obs = obs.assign(**{k: v.to_numpy() for k, v in _label_table(adata.obs, pair).items()})
    obs.index = pd.Index([f"cell_{i}" for i in range(adata.n_obs)], dtype=object)
    var = pd.DataFrame(index=pd.Index(adata.var_names.astype(str), dtype=object))
    return ad.AnnData(X=counts, obs=obs.astype(object).astype("category"), var=var)
