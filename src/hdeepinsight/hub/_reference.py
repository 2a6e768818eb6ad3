"""What a model's reference looked like to it: features and labels, but no counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight._keys import REFERENCE_BUNDLE_KEY
from hdeepinsight.hub._errors import HubError
from hdeepinsight.taxonomy import Taxonomy

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.models import SCHDeepInsight

__all__ = ["REFERENCE_FILE", "ReferenceBundle"]

#: scvi-tools' hub fetches a file of this name with the model, and wants one to load the model.
REFERENCE_FILE: Final = "adata.h5ad"
_LATENT = "X_hdi_latent"
_NODE = "node"
_SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class ReferenceBundle:
    """Features and labels of reference cells; no counts, no names of cells, no donors.

    Parameters
    ----------
    latent
        Features of the network, shape ``(n_cells, n_latent)``, float16.
    nodes
        Node of every cell's label, shape ``(n_cells,)``.
    n_reference
        Cells of the whole reference labelled exactly at each node, shape ``(n_nodes,)``.
    taxonomy
        The tree.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> bundle = hdi.hub.ReferenceBundle(
    ...     latent=np.zeros((3, 8), dtype=np.float16),
    ...     nodes=tree.encode(["CD4", "CD4", "B"]),
    ...     n_reference=np.array([0, 0, 200, 900, 0]),
    ...     taxonomy=tree,
    ... )
    >>> bundle
    ReferenceBundle of 3 of 1,100 cells, 2 labels, 8 features
    >>> bundle.labels
    ['T > CD4', 'T > CD4', 'B']

    Notes
    -----
    Features are not anonymous in a strict sense: they are a summary of a cell's expression. What
    they do not hold is counts, genotypes that could be called from reads, cell barcodes, or any
    column of ``obs``.
    """

    latent: np.ndarray
    nodes: np.ndarray
    n_reference: np.ndarray
    taxonomy: Taxonomy

    def __post_init__(self) -> None:
        n_nodes = self.taxonomy.n_nodes
        fits = len(self.latent) == len(self.nodes) and self.n_reference.shape == (n_nodes,)
        inside = not len(self.nodes) or (self.nodes.min() >= 0 and self.nodes.max() < n_nodes)
        if not fits or not inside or not np.isfinite(self.latent).all():
            msg = (
                f"A reference bundle has features of shape {self.latent.shape} for "
                f"{len(self.nodes)} labels over {n_nodes} nodes. Valid are finite features and one "
                "node of the taxonomy a cell. Publish the model again."
            )
            raise HubError(msg)

    @classmethod
    def from_model(
        cls,
        model: SCHDeepInsight,
        adata: AnnData | None = None,
        *,
        max_cells_per_type: int = 200,
        seed: int = 0,
    ) -> ReferenceBundle:
        """Take features of a labelled reference.

        Parameters
        ----------
        model
            Trained model.
        adata
            Reference with counts and the label columns of the model; by default the attached one.
        max_cells_per_type
            Most cells of each label; they are drawn at random.
        seed
            Seed of the draw.

        Raises
        ------
        ValueError
            If ``max_cells_per_type`` is no whole number from 1 up.

        Examples
        --------
        Cells of which the bundled model itself says what they are:

        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, cells = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:10].copy()
        >>> cells.obs["label"] = model.annotate(cells).labels["stop_label"]
        >>> bundle = hdi.hub.ReferenceBundle.from_model(model, cells, max_cells_per_type=1)
        >>> len(bundle) == cells.obs["label"].nunique()
        True
        """
        if max_cells_per_type < 1 or max_cells_per_type != int(max_cells_per_type):
            msg = (
                f"max_cells_per_type={max_cells_per_type}; valid are whole numbers from 1 up. "
                "Pass 200, or use ReferenceBundle.empty(model) for no cells."
            )
            raise ValueError(msg)
        adata = model._own_adata() if adata is None else adata
        nodes = model.label_nodes(adata)
        rows = _sample(nodes, max_cells_per_type, np.random.default_rng(seed))
        latent = model.get_latent_representation(adata[rows]).astype(np.float16)
        counts = np.bincount(nodes, minlength=model.taxonomy.n_nodes)
        return cls(latent, nodes[rows], counts, model.taxonomy)

    @classmethod
    def empty(cls, model: SCHDeepInsight) -> ReferenceBundle:
        """Make a bundle of no cells, for a model whose reference stays at home.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> len(hdi.hub.ReferenceBundle.empty(hdi.hub.pull("pbmc")))
        0
        """
        none = np.zeros(model.taxonomy.n_nodes, dtype=np.int64)
        latent = np.zeros((0, 0), dtype=np.float16)
        return cls(latent, np.zeros(0, dtype=np.int64), none, model.taxonomy)

    @property
    def labels(self) -> list[str]:
        """Path of every cell's label, such as ``"T > CD4 T"``."""
        return [self.taxonomy.path_name(int(node)) for node in self.nodes]

    def to_adata(self) -> AnnData:
        """Give an AnnData without ``X``: labels in ``obs``, features in ``obsm``.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
        >>> latent = np.zeros((2, 8), dtype=np.float16)
        >>> bundle = hdi.hub.ReferenceBundle(
        ...     latent, tree.encode(["T", "B"]), np.array([0, 9, 9]), tree
        ... )
        >>> bundle.to_adata().obs["label"].tolist()
        ['T', 'B']
        """
        import pandas as pd
        from anndata import AnnData

        names = [f"reference_{i}" for i in range(len(self.nodes))]
        obs = pd.DataFrame({_NODE: self.nodes, "label": pd.Categorical(self.labels)}, index=names)
        description: dict[str, Any] = {
            "schema_version": _SCHEMA_VERSION,
            "taxonomy": self.taxonomy.to_json(),
            "n_reference": self.n_reference,
        }
        return AnnData(
            obs=obs, obsm={_LATENT: self.latent}, uns={REFERENCE_BUNDLE_KEY: description}
        )

    def write(self, path: Path) -> None:
        """Write an h5ad file.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
        >>> latent = np.zeros((2, 8), dtype=np.float16)
        >>> bundle = hdi.hub.ReferenceBundle(
        ...     latent, tree.encode(["T", "B"]), np.array([0, 9, 9]), tree
        ... )
        >>> with TemporaryDirectory() as folder:
        ...     bundle.write(Path(folder) / "adata.h5ad")
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['adata.h5ad']
        """
        self.to_adata().write_h5ad(path, compression="gzip")

    @classmethod
    def read(cls, path: str | Path) -> ReferenceBundle:
        """Read what :meth:`write` wrote.

        Raises
        ------
        HubError
            If it is something else.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> path = hdi.hub.download("pbmc").folder / "adata.h5ad"
        >>> hdi.hub.ReferenceBundle.read(path).taxonomy.n_leaves
        8
        """
        from anndata import read_h5ad

        from hdeepinsight.data import check_file

        try:
            check_file(Path(path))
            adata = read_h5ad(path)
            description = adata.uns[REFERENCE_BUNDLE_KEY]
            version = int(description["schema_version"])
            bundle = cls(
                np.asarray(adata.obsm[_LATENT]),
                adata.obs[_NODE].to_numpy(dtype=np.int64),
                np.asarray(description["n_reference"], dtype=np.int64),
                _taxonomy(description["taxonomy"]),
            )
        except Exception as error:  # what the libraries raise about odd files is open
            msg = (
                f"{path} is no reference bundle ({type(error).__name__}). Valid is what "
                "hdi.hub.publish wrote beside a model. Pull the model again."
            )
            raise HubError(msg) from None
        if version > _SCHEMA_VERSION:
            msg = (
                f"{path} has schema version {version}; this release reads up to {_SCHEMA_VERSION}. "
                "Update hdeepinsight."
            )
            raise HubError(msg)
        return bundle

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return (
            f"ReferenceBundle of {len(self):,} of {int(self.n_reference.sum()):,} cells, "
            f"{len(np.unique(self.nodes))} labels, {self.latent.shape[1]} features"
        )


def _taxonomy(text: object) -> Taxonomy:
    """Read a taxonomy from its text alone: other text would be taken for the path of a file."""
    if not str(text).lstrip().startswith("{"):
        msg = "The taxonomy is no JSON. Valid is what Taxonomy.to_json gives. Ask its publisher."
        raise ValueError(msg)
    return Taxonomy.from_json(str(text))


def _sample(nodes: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``most`` labelled cells of every node, in their order."""
    chosen = [
        rng.permutation(np.flatnonzero(nodes == node))[:most]
        for node in np.unique(nodes[nodes > 0])
    ]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
