"""Fields of a MuData for scvi-tools' data manager: ours, on one part of the object."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scvi.data.fields import BaseAnnDataField, BaseMuDataWrapperClass

from hdeepinsight.data._modalities import errors_of

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


class PartField(BaseMuDataWrapperClass):  # type: ignore[misc]
    """A field of an AnnData, registered on a part of a MuData.

    Parameters
    ----------
    field
        The field.
    part
        Gives the part; it may be put together from several modalities.
    mod_key
        Modality that the registry names.
    """

    def __init__(
        self, field: BaseAnnDataField, part: Callable[[MuData], AnnData], mod_key: str | None
    ) -> None:
        super().__init__(mod_key=mod_key)
        self._adata_field = field
        self._part = part

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Register the part; errors about a matrix say of which modality it is."""
        with errors_of(self.mod_key):
            return dict(super().register_field(mdata))

    def transfer_field(
        self, state_registry: dict[str, Any], mdata_target: MuData, **kwargs: Any
    ) -> dict[str, Any]:
        """Register the part of another object, in the same way."""
        with errors_of(self.mod_key):
            return dict(super().transfer_field(state_registry, mdata_target, **kwargs))

    def get_modality(self, mdata: MuData) -> Any:
        """Return the part of the object that the field reads."""
        return self._part(mdata)
