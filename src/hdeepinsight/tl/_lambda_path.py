"""What a range of strengths would do: figures to look at, no recommendation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdeepinsight.tl._graphs import cell_graphs
from hdeepinsight.tl._refine_run import Settings, run
from hdeepinsight.tl._scores import read_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.taxonomy import Taxonomy

_OF_GRAPH = ("use_rep", "neighbors_key", "n_neighbors", "weights", "batch_key")


def lambda_path(
    adata: AnnData,
    probabilities: str | pd.DataFrame | ArrayLike | Annotation,
    *,
    grid: Sequence[float] = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0),
    classes: Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Refine with several strengths on one graph.

    Parameters
    ----------
    adata, probabilities, classes, taxonomy
        As in `refine`.
    grid
        Strengths to try.
    settings
        Further arguments of `refine`, except ``lam``, ``preset`` and ``key_added``.

    Returns
    -------
    One row a strength (index ``lam``): ``mean_margin`` (mean of the confidence),
    ``mass_drift`` (half the sum of absolute changes of class shares, 0 to 1),
    ``smallest_mass_ratio`` (of the class that shrank most, among those with a mass of at least one
    cell), ``energy`` (Dirichlet) and ``n_changed`` labels.

    Raises
    ------
    TypeError
        If a setting is none of `refine`.
    ValueError
        If scores, graph or settings are unfit.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> rng = np.random.default_rng(0)
    >>> cells = ad.AnnData(obsm={"X_pca": rng.normal(size=(50, 5))})
    >>> p = rng.dirichlet([1, 1, 1], size=50)
    >>> path = hdi.tl.lambda_path(cells, p, grid=[0, 1, 9], classes=["B", "T", "NK"])
    >>> path["n_changed"].tolist()[0], path.columns.tolist()[:2]
    (0, ['mean_margin', 'mass_drift'])
    """
    of_graph = {name: settings.pop(name) for name in _OF_GRAPH if name in settings}
    scores = read_scores(adata, probabilities, classes=classes, taxonomy=taxonomy)
    graphs = cell_graphs(adata, **of_graph)
    names, by_batch = pd.Index(adata.obs_names), of_graph.get("batch_key") is not None
    rows = []
    for lam in grid:
        strength = Settings(lam=lam, **settings)
        result = run(names, scores, graphs, strength, by_batch=by_batch)
        mass = result.class_mass
        before, after = mass["mass_before"].to_numpy(), mass["mass_after"].to_numpy()
        ratio = np.where(before >= 1, after / np.maximum(before, 1e-12), np.inf)
        rows.append(
            {
                "mean_margin": float(result.confidence.mean()),
                "mass_drift": float(np.abs(after - before).sum() / (2 * len(names))),
                "smallest_mass_ratio": float(ratio.min()),
                "energy": result.energy_after,
                "n_changed": int(result.changed.sum()),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(list(grid), name="lam", dtype=float))
