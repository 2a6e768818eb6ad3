"""Arrays in pieces, each unpacked once by whoever reads on, and by the fastest way there is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import h5py
import numpy as np

try:
    import deflate
except ImportError:  # there is no wheel for this machine: HDF5 unpacks by itself
    deflate = None  # type: ignore[assignment]

#: Bytes that pieces which were looked at beforehand may take until the pass that needs them.
MOST_HELD = 2**26
_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


class PackedArray:
    """A one-dimensional array on disk that is read by slices, each piece of it once.

    The last piece is kept, as the next slice mostly begins in it. Pieces that HDF5 packed by
    deflate, shuffled or not, are read as they are and unpacked by libdeflate, in less than half of
    the time; whatever is unusual or damaged is left to the library that wrote it, which also says
    what is wrong.

    Parameters
    ----------
    stored
        Array of HDF5 or zarr.
    counter
        Where the ``"bytes"`` that were read packed are counted.
    held
        Pieces that were unpacked before, which are given away as they are read.
    keep
        Hold the pieces that are unpacked, up to `MOST_HELD` bytes in all.
    """

    def __init__(
        self, stored: Any, *, counter: Counter[str], held: dict[Any, Any], keep: bool = False
    ) -> None:
        self.stored, self.counter, self.held, self.keep = stored, counter, held, keep
        self.filters: list[int] = []
        self.last: tuple[int, Any] = (-1, None)
        if isinstance(stored, h5py.Dataset):
            made = stored.id.get_create_plist()
            self.filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
        self.is_deflated = (
            deflate is not None
            and self.filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE])
            and stored.dtype.kind in "iuf"
            and stored.dtype.isnative
        )

    def __getitem__(self, span: slice) -> np.ndarray[Any, Any]:
        if isinstance(self.stored, h5py.Dataset) and not self.is_deflated:
            values: np.ndarray[Any, Any] = self.stored[span]  # HDF5 keeps pieces by itself
            return values
        size = self.stored.chunks[0]
        start, stop, _ = span.indices(self.stored.shape[0])
        result = np.empty(max(0, stop - start), self.stored.dtype)
        for first in range(start // size * size, stop, size):
            if self.last[0] != first:
                at = self.stored.name, first
                piece = self.held.pop(at, None)
                if piece is None:
                    piece = self._unpacked(first, min(first + size, self.stored.shape[0]))
                if self.keep and piece.nbytes * (len(self.held) + 1) <= MOST_HELD:
                    self.held[at] = piece
                self.last = first, piece
            low, high = max(start, first), min(stop, first + size)
            result[low - start : high - start] = self.last[1][low - first : high - first]
        return result

    def _unpacked(self, first: int, last: int) -> Any:
        if not self.is_deflated:
            return self.stored[first:last]
        dtype, size = self.stored.dtype, self.stored.chunks[0]
        try:
            skipped, packed = self.stored.id.read_direct_chunk((first,))
            self.counter["bytes"] += len(packed)
            raw = np.frombuffer(deflate.zlib_decompress(packed, size * dtype.itemsize), np.uint8)
            if skipped or len(raw) != size * dtype.itemsize:
                raise ValueError("not packed as the others are")
        except (deflate.DeflateError, OSError, RuntimeError, ValueError):
            return self.stored[first:last]
        if _SHUFFLE in self.filters:  # first bytes of all values, then their second bytes ...
            raw = np.ascontiguousarray(raw.reshape(dtype.itemsize, size).T)
        return raw.ravel().view(dtype)
