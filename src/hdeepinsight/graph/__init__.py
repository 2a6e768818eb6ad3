"""Neighbour graphs of cells, priors from them, and inner products; knows arrays only."""

from hdeepinsight.graph._choices import degree_summary, neighbors_within
from hdeepinsight.graph._communities import leiden_communities
from hdeepinsight.graph._gram import (
    CorrectedGram,
    EntryMask,
    Estimator,
    PanelScores,
    Reader,
    leading_eigenpairs,
    regress_panels,
)
from hdeepinsight.graph._local_prior import (
    LocalPrior,
    check_graph,
    degrees,
    refine_by_local_prior,
)
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

__all__ = [
    "BatchGraphs",
    "CorrectedGram",
    "EntryMask",
    "Estimator",
    "Exact",
    "LocalPrior",
    "NumbaCacheError",
    "PanelScores",
    "Reader",
    "batch_graphs",
    "check_graph",
    "check_points",
    "degree_summary",
    "degrees",
    "knn_graph",
    "leading_eigenpairs",
    "leiden_communities",
    "mutual_neighbors",
    "nearest_neighbors",
    "neighbors_within",
    "refine_by_local_prior",
    "regress_panels",
]
