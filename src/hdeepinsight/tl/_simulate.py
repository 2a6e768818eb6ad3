"""Simulated single cells, drawn from averaged profiles."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from hdeepinsight._errors import check_integer, check_number
from hdeepinsight.data import open_counts

#: Standard deviation of the log depth of simulated cells, about that of a 10x experiment.
LOG_DEPTH_SD = 0.4


def simulate_cells(
    profiles: AnnData,
    n_per_profile: int = 50,
    *,
    depth: float | None = None,
    layer: str | None = None,
    seed: int = 0,
) -> AnnData:
    r"""Draw single cells from averaged profiles, such as centroids, pseudobulks or bulk samples.

    A network learns what single cells look like from its reference. Averages have neither the
    zeros nor the noise of single cells, so train on cells simulated from them instead.

    Parameters
    ----------
    profiles
        Rows with the summed counts of many cells, as :func:`select_cells` and :func:`distill`
        return them (counts in ``layers["counts"]``), or bulk samples.
    n_per_profile
        Cells per row.
    depth
        Mean counts per cell. By default, the counts of each row divided by ``obs["n_cells"]``.
    layer
        Layer with the counts; by default ``"counts"`` if there is one, else ``X``.
    seed
        Seed of the draws.

    Returns
    -------
    AnnData
        ``n_profiles * n_per_profile`` cells with whole counts in ``X`` (CSR float32), the columns
        of ``obs`` of their rows except ``n_cells`` and ``is_real``, and the row's name in
        ``obs["profile"]``.

    Raises
    ------
    InputError
        If the matrix does not hold counts.
    ValueError
        If a number is out of its range, or ``depth`` is missing and there is no
        ``obs["n_cells"]``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> reference = hdi.datasets.demo().reference
    >>> centroids = hdi.tl.select_cells(reference, "cell_type", 2)
    >>> cells = hdi.tl.simulate_cells(centroids, 20)
    >>> cells.n_obs == 20 * centroids.n_obs
    True

    Notes
    -----
    The counts of cell :math:`i` of profile :math:`p` are Poisson with mean
    :math:`d_i\, x_p / \sum_g x_{pg}`, where :math:`\log d_i` is normal with standard deviation
    0.4 and :math:`d_i` has mean ``depth``. Variation within a type is that between its profiles,
    so take several profiles per type. Our own construction.
    """
    check_integer("n_per_profile", n_per_profile)
    if depth is not None:
        check_number("depth", depth, 1.0)
    if layer is None and "counts" in profiles.layers:
        layer = "counts"
    source = open_counts(profiles, layer=layer, arguments={"layer": "layer"})
    counts = sp.vstack([sp.csr_matrix(block) for _, block in source.blocks()], format="csr")
    counts = counts.astype(np.float64)
    total = np.asarray(counts.sum(axis=1)).ravel()
    if depth is not None:
        depths = np.full(profiles.n_obs, float(depth))
    elif "n_cells" in profiles.obs:
        depths = total / profiles.obs["n_cells"].to_numpy()
    else:
        raise ValueError(
            "simulate_cells needs the depth of a cell, and obs has no column 'n_cells'. "
            "Pass depth=, the mean counts per cell of the queries, such as 2000."
        )
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(profiles.n_obs), n_per_profile)
    spread = np.exp(rng.normal(-(LOG_DEPTH_SD**2) / 2, LOG_DEPTH_SD, len(rows)))
    cells = counts[rows]
    factor = depths[rows] * spread / np.maximum(total[rows], 1.0)
    cells.data = rng.poisson(cells.data * np.repeat(factor, np.diff(cells.indptr)))
    cells.eliminate_zeros()
    obs = profiles.obs.iloc[rows].drop(columns=["n_cells", "is_real"], errors="ignore")
    obs["profile"] = profiles.obs_names[rows]
    obs.index = obs["profile"] + "_" + np.tile(np.arange(n_per_profile), profiles.n_obs).astype(str)
    return AnnData(sp.csr_matrix(cells, dtype=np.float32), obs=obs, var=profiles.var.copy())
