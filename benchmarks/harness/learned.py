"""What the methods of ``headroom.py`` learn from, by its name in the records."""

from __future__ import annotations

LABELS = {
    "query": "four fifths of the query",
    "query and reference": "four fifths of the query, and the reference",
}
