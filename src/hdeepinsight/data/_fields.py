"""Fields for scvi-tools' ``AnnDataManager`` that read the user's object and never write to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import rich.table
from scvi.data.fields import BaseAnnDataField, LayerField

from hdeepinsight.data._counts import open_counts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class CountsField(LayerField):  # type: ignore[misc]
    """The matrix of raw counts.

    Unlike scvi-tools' own field it refuses what is not (and cannot be turned into) counts, leaves
    the matrix in the format that it has, and lets a later object have other genes, because genes
    are matched by name.

    Parameters
    ----------
    registry_key
        Name of the field.
    layer
        Layer with the counts; ``X`` if ``None``.
    """

    def __init__(self, registry_key: str, layer: str | None) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)

    def validate_field(self, adata: AnnData) -> None:
        """Check the matrix; raises ``InputError`` where it cannot be read as counts."""
        open_counts(
            adata, layer=self.attr_key, arguments={"layer": "layer"}
        )  # first, because it says what is there instead
        super().validate_field(adata)

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """Register another object, whatever its genes."""
        return dict(self.register_field(adata_target))


class ColumnField(BaseAnnDataField):  # type: ignore[misc]
    """A column of ``obs``, read as it is: no encoded copy is written beside it.

    Parameters
    ----------
    registry_key
        Name of the field.
    obs_key
        Column of ``obs``; ``None`` makes the field empty. The object registered first must have it,
        later ones (a query) may lack it.
    """

    ORIGINAL_KEY = "original_key"
    CATEGORIES = "categories"
    N_MISSING = "n_missing"

    def __init__(self, registry_key: str, obs_key: str | None) -> None:
        super().__init__()
        self._registry_key = registry_key
        self._attr_key = obs_key

    @property
    def registry_key(self) -> str:
        """Name of the field."""
        return self._registry_key

    @property
    def attr_name(self) -> str:
        """Where the column lives: always ``obs``."""
        return "obs"

    @property
    def attr_key(self) -> str | None:
        """Name of the column."""
        return self._attr_key

    @property
    def is_empty(self) -> bool:
        """Whether no column was asked for."""
        return self._attr_key is None

    def validate_field(self, adata: AnnData) -> None:
        """Check that the column is there; raises ``KeyError`` with the columns that are."""
        super().validate_field(adata)
        if self._attr_key not in adata.obs:
            msg = (
                f"obs has no column {self._attr_key!r}. Columns there: "
                f"{', '.join(map(str, adata.obs.columns)) or 'none'}. Pass the name of one of them."
            )
            raise KeyError(msg)
        n_columns = int((adata.obs.columns == self._attr_key).sum())
        if n_columns > 1:
            msg = (
                f"obs has {n_columns} columns named {self._attr_key!r}. Valid is one. Rename or "
                "drop the others."
            )
            raise ValueError(msg)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Record the values of the column."""
        super().register_field(adata)
        return self._state(adata.obs[self._attr_key])

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """Register another object, which may lack the column."""
        if self._attr_key not in adata_target.obs:
            return {**state_registry, self.N_MISSING: adata_target.n_obs}
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return the number of distinct values."""
        return {f"n_{self._registry_key}": len(state_registry.get(self.CATEGORIES, ()))}

    def view_state_registry(self, state_registry: dict[str, Any]) -> rich.table.Table | None:
        """Table of the values of the column, and how many cells have none."""
        table = rich.table.Table(title=f"{self._registry_key} state registry")
        table.add_column("Source location")
        table.add_column("Values")
        table.add_column("Missing", justify="right")
        values = ", ".join(state_registry.get(self.CATEGORIES, ()))
        n_missing = str(state_registry.get(self.N_MISSING, 0))
        table.add_row(f"adata.obs[{self._attr_key!r}]", values, n_missing)
        return table

    def _state(self, column: pd.Series) -> dict[str, Any]:
        missing = column.isna().to_numpy()
        values = column[~missing].astype(str).to_numpy()
        return {
            self.ORIGINAL_KEY: self._attr_key,
            self.CATEGORIES: [str(value) for value in np.unique(values)],
            self.N_MISSING: int(missing.sum()),
        }
