"""Neighbour graphs of cells, linear systems on them, and inner products; knows arrays only."""

from hdeepinsight.graph._gram import (
    CorrectedGram,
    EntryMask,
    Estimator,
    PanelScores,
    Reader,
    leading_eigenpairs,
    regress_panels,
)
from hdeepinsight.graph._local_prior import LocalPrior, refine_by_local_prior
from hdeepinsight.graph._mutual import mutual_neighbors
from hdeepinsight.graph._neighbors import (
    BatchGraphs,
    Exact,
    NumbaCacheError,
    batch_graphs,
    check_points,
    knn_graph,
    nearest_neighbors,
)
from hdeepinsight.graph._smooth import (
    LaplacianKind,
    check_graph,
    degrees,
    dirichlet_energy,
    laplacian,
    smooth,
)

__all__ = [
    "BatchGraphs",
    "CorrectedGram",
    "EntryMask",
    "Estimator",
    "Exact",
    "LaplacianKind",
    "LocalPrior",
    "NumbaCacheError",
    "PanelScores",
    "Reader",
    "batch_graphs",
    "check_graph",
    "check_points",
    "degrees",
    "dirichlet_energy",
    "knn_graph",
    "laplacian",
    "leading_eigenpairs",
    "mutual_neighbors",
    "nearest_neighbors",
    "refine_by_local_prior",
    "regress_panels",
    "smooth",
]
