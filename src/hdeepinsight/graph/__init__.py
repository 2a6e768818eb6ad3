"""Neighbour graphs of cells, smoothing on graphs, and corrected inner products, for arrays."""

from hdeepinsight.graph._gram import CorrectedGram as CorrectedGram
from hdeepinsight.graph._gram import EntryMask as EntryMask
from hdeepinsight.graph._gram import Estimator as Estimator
from hdeepinsight.graph._gram import PanelScores as PanelScores
from hdeepinsight.graph._gram import Reader as Reader
from hdeepinsight.graph._gram import leading_eigenpairs as leading_eigenpairs
from hdeepinsight.graph._gram import regress_panels as regress_panels
from hdeepinsight.graph._neighbors import BatchGraphs as BatchGraphs
from hdeepinsight.graph._neighbors import Exact as Exact
from hdeepinsight.graph._neighbors import NumbaCacheError as NumbaCacheError
from hdeepinsight.graph._neighbors import batch_graphs as batch_graphs
from hdeepinsight.graph._neighbors import degree_summary as degree_summary
from hdeepinsight.graph._neighbors import knn_graph as knn_graph
from hdeepinsight.graph._neighbors import leiden_communities as leiden_communities
from hdeepinsight.graph._neighbors import mutual_neighbors as mutual_neighbors
from hdeepinsight.graph._neighbors import nearest_neighbors as nearest_neighbors
from hdeepinsight.graph._neighbors import neighbors_within as neighbors_within
from hdeepinsight.graph._smooth import LaplacianKind as LaplacianKind
from hdeepinsight.graph._smooth import LocalPrior as LocalPrior
from hdeepinsight.graph._smooth import check_graph as check_graph
from hdeepinsight.graph._smooth import degrees as degrees
from hdeepinsight.graph._smooth import dirichlet_energy as dirichlet_energy
from hdeepinsight.graph._smooth import laplacian as laplacian
from hdeepinsight.graph._smooth import refine_by_local_prior as refine_by_local_prior
from hdeepinsight.graph._smooth import smooth as smooth
