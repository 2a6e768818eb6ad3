"""What can go wrong on the way to public data."""

from __future__ import annotations

__all__ = ["DatasetError"]


class DatasetError(OSError):
    """Public data could not be fetched, or is not what it should be; the text says what to do."""
