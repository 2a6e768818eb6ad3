"""Base class of models trained without labels: set-up, size factors, latent representation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.sparse import issparse
from scvi import REGISTRY_KEYS

from hdeepinsight._errors import check_integer, examples, invalid, missing_column, one_column
from hdeepinsight.models._base import _registration as registration

if TYPE_CHECKING:
    from hdeepinsight.models._base._count_model import CountModel as _Base
else:
    _Base = object

#: Names of the size factors and of an embedding of the cells in mini-batches.
SIZE_FACTOR, EMBEDDING = "size_factor", "embedding"


class UnlabeledMixin(_Base):
    """Mixin of models trained without labels, whose module returns ``z`` from ``inference``.

    It is combined with :class:`CountModel`. A subclass with other arguments of ``setup_anndata``
    passes them to ``_set_up``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.models import UnlabeledMixin
    >>> issubclass(hdi.SCE2TM, UnlabeledMixin)
    True
    """

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        source_registry: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Register cells without modifying them; no labels are used.

        Parameters
        ----------
        adata
            Cells with raw counts, shape ``(n_obs, n_vars)``. Select variable genes first.
        layer
            Layer with the counts; ``X`` by default.
        batch_key
            Column of ``obs`` with the batch of each cell.
        size_factor_key
            Column of ``obs`` with the size factor (total count) of each cell; by default the total
            count of the registered genes.
        source_registry
            Registry of a saved model, used when the model is loaded with new cells.
        **others
            Other arguments are refused.

        Raises
        ------
        InputError
            If the matrix does not hold counts, and they cannot be recovered.
        KeyError
            If a column is missing.
        TypeError
            If ``adata`` is not an AnnData, or for other arguments.
        ValueError
            If a size factor is not a finite number > 0, or ``adata`` is a view.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> cells = hdi.datasets.demo().query
        >>> hdi.SCAGC.setup_anndata(cells)
        >>> hdi.SCAGC(cells).is_trained
        False
        """
        cls._set_up(locals())

    @classmethod
    def _set_up(cls, given: dict[str, Any]) -> None:
        known = registration.names_of(given["source_registry"], REGISTRY_KEYS.BATCH_KEY)
        super()._set_up(given)
        if known and (key := given.get("batch_key")) is not None:
            new = sorted(set(given["adata"].obs[key].astype(str)) - set(known))
            if new:
                expected = f"the batches of the model, {examples(known)}"
                hint = "Load it with adata=False, and pass cells of other batches to its methods."
                raise invalid(f"obs[{key!r}]", examples(new), expected, hint)
        if (key := given.get("size_factor_key")) is not None:
            _size_factors(given["adata"].obs, key)
        if (key := given.get("embedding_obsm_key")) is not None:
            fields = (given["source_registry"] or {}).get("field_registries", {})
            widths = fields.get(EMBEDDING, {}).get("summary_stats", {})
            embedding_of(given["adata"], key, widths.get(f"n_{EMBEDDING}"))

    def _extra_arrays(self, obs: pd.DataFrame) -> dict[str, np.ndarray]:
        key = self._setup.setup_args.get("size_factor_key")
        return {} if key is None else {SIZE_FACTOR: _size_factors(obs, key)}

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int = 2048,
    ) -> np.ndarray:
        """Return the latent representation of cells.

        Parameters
        ----------
        adata
            Cells with raw counts of the model's genes; the registered ones by default.
        indices
            Cells to embed: positions, a Boolean mask or names; all cells by default.
        batch_size
            Cells per forward pass.

        Returns
        -------
        Latent representation, float32, shape ``(n_cells, n_latent)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        check_integer("batch_size", batch_size)
        self.module.eval()
        loader = self._make_data_loader(adata, indices=indices, batch_size=batch_size)
        inputs = map(self.module._get_inference_input, loader)
        parts = [self.module.inference(**given)["z"].cpu() for given in inputs]
        positions: np.ndarray = torch.cat(parts).numpy()
        return positions


def totals_of(shell: AnnData) -> np.ndarray:
    """Return the size factor, or else the total count, of each cell, shape ``(n_cells, 1)``."""
    given = shell.obsm.get(SIZE_FACTOR)
    return np.asarray(shell.X.sum(axis=1)) if given is None else given


def embedding_of(adata: AnnData, key: str, width: int | None = None) -> np.ndarray:
    """Return an entry of ``obsm``, float32, shape ``(n_cells, n_features)``.

    Raises
    ------
    KeyError
        If the entry is missing.
    ValueError
        If it is not a table of finite numbers with two or more columns, or has another ``width``
        than in training.
    """
    if key not in adata.obsm:
        hint = ""
        if key in adata.obs:
            hint = f"{key!r} is a column of obs. Pass an entry of obsm."
        raise missing_column(key, adata.obsm.keys(), where="obsm", hint=hint)
    given = adata.obsm[key]
    given = given.toarray() if issparse(given) else np.asarray(given)
    is_table = given.ndim == 2 and given.shape[1] > 1 and np.issubdtype(given.dtype, np.number)
    if not is_table or not np.isfinite(given).all():
        found, expected = f"{given.dtype} of shape {given.shape}", "a table of finite numbers"
        hint = "Convert labels to numbers, and remove cells with missing values."
        raise invalid(f"obsm[{key!r}]", found, f"{expected} in two or more columns", hint)
    if width is not None and given.shape[1] != width:
        found, expected = f"{given.shape[1]} columns", f"of {width} columns, as in training"
        raise invalid(f"obsm[{key!r}]", found, expected, "Pass the same embedding of these cells.")
    return np.ascontiguousarray(given, dtype=np.float32)


def _size_factors(obs: pd.DataFrame, key: str) -> np.ndarray:
    """Return the size factor of each cell, float32, shape ``(n_cells, 1)``."""
    values = pd.to_numeric(one_column(obs, key), errors="coerce").to_numpy(dtype=np.float32)
    if not (np.isfinite(values) & (values > 0)).all():
        hint = "Omit size_factor_key to use the totals of the registered genes."
        raise invalid(f"obs[{key!r}]", "other values", "a column of finite numbers > 0", hint)
    return np.asarray(values[:, None])
