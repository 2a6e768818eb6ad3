"""Annotate a query in blocks that do not depend on each other, in one process or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight.data import CHUNK_CELLS
from hdeepinsight.models._base._reader import Outputs, QueryReader, gather

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.data import AlignedQuery


class QueryBlocks:
    """Annotate blocks of a query in any order, with exactly the result of annotating it at once.

    Parameters
    ----------
    model
        Trained model.
    opened
        Query, opened for the model. A sample of its cells is compared with the reference.
    **how
        ``decoder``, ``threshold`` and ``reject`` of :meth:`AnnotatingMixin.annotate`.
    """

    def __init__(self, model: Any, opened: AlignedQuery, **how: Any) -> None:
        self.model, self.how = model, how
        self.reader = QueryReader(model, opened)
        self.comparison, self.sampled = None, {}
        if model.bank_ is not None:
            sample, self.comparison = model._annotated(self.reader.sample(), **how)
            self.sampled = {"verdict": sample.verdict, "gene_report": sample.gene_report}

    def annotations(
        self, rows: range | None = None, names: pd.Index | None = None
    ) -> Iterator[Annotation]:
        """Annotate some cells, by default all, 4,096 at a time; ``names`` replaces their names."""
        reader = self._reader(rows)
        first, parts = 0, []
        for read, _, part in reader.chunks(self.model._outputs, comparison=self.comparison):
            parts.append((slice(read.start - first, read.stop - first), part))
            if read.stop - first < CHUNK_CELLS and read.stop < reader.opened.n_obs:
                continue
            place, found = slice(first, read.stop), gather(parts, read.stop - first)
            first, parts = read.stop, []
            opened = reader.opened.subset(place)
            opened = opened if names is None else opened.named(names[place])
            yield self.model._annotation(
                opened, self.comparison, found, **self.how, whole=self.sampled
            )

    def outputs(self, rows: range | None = None) -> Outputs:
        """Return the model's outputs for some cells as arrays by name, for `whole`."""
        reader = self._reader(rows)
        chunks = reader.chunks(self.model._outputs, comparison=self.comparison)
        return gather(((place, part) for place, _, part in chunks), reader.opened.n_obs)

    def whole(self, parts: Iterable[tuple[slice, Outputs]]) -> Annotation:
        """Combine the `outputs` of all parts into the annotation of the query."""
        opened = self.reader.opened
        found = gather(parts, opened.n_obs)
        annotation: Annotation = self.model._annotation(opened, self.comparison, found, **self.how)
        return annotation

    def portable(self, columns: Sequence[str] = ()) -> QueryBlocks:
        """Return a copy to send to other processes; see :meth:`AlignedQuery.portable`."""
        found = copy(self)
        found.reader = copy(self.reader)
        found.reader.opened = self.reader.opened.portable(columns)
        return found

    def _reader(self, rows: range | None) -> QueryReader:
        reader = self.reader
        return reader if rows is None else reader.subset(np.arange(rows.start, rows.stop))
