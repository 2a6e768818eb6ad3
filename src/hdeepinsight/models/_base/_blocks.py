"""A query that is opened and judged by a model once, and labelled in blocks, in any process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight.models._base._reader import Outputs, QueryReader, gather

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.data import AlignedQuery


class QueryBlocks:
    """Label the blocks of a query, in any order; each is to the last bit that of the whole query.

    Parameters
    ----------
    model
        Model that labels them.
    opened
        Query, opened for the model. Some of its cells are read, by which all of it is judged.
    **how
        ``decoder``, ``threshold`` and ``reject`` of :meth:`AnnotatingMixin.annotate`.
    """

    def __init__(self, model: Any, opened: AlignedQuery, **how: Any) -> None:
        self.model, self.how = model, how
        self.reader = QueryReader(model, opened)
        self.judge, self.said = None, {}
        if model.bank_ is not None:
            sample, self.judge = model._annotated(self.reader.sample(), **how)
            self.said = {"verdict": sample.verdict, "gene_report": sample.gene_report}
        self.how["decisions"] = self.reader.decisions

    def annotations(
        self, rows: range | None = None, names: pd.Index | None = None
    ) -> Iterator[Annotation]:
        """Label the next 4,096 cells at a time, of all cells or of some; with other names."""
        reader = self._reader(rows)
        for place, _, part in reader.chunks(self.model._wanted, judge=self.judge):
            opened = reader.opened.subset(place)
            opened = opened if names is None else opened.named(names[place])
            yield self.model._annotation(opened, self.judge, part, **self.how, said=self.said)

    def outputs(self, rows: range | None = None) -> Outputs:
        """Return what the model says of some cells, as arrays by name, of which `whole` is made."""
        reader = self._reader(rows)
        chunks = reader.chunks(self.model._wanted, judge=self.judge)
        return gather(((place, part) for place, _, part in chunks), reader.opened.n_obs)

    def whole(self, parts: Iterable[tuple[slice, Outputs]]) -> Annotation:
        """Return the annotation of all cells, of what `outputs` returned of parts of them."""
        opened = self.reader.opened
        found = gather(parts, opened.n_obs)
        annotation: Annotation = self.model._annotation(opened, self.judge, found, **self.how)
        return annotation

    def portable(self, columns: Sequence[str] = ()) -> QueryBlocks:
        """Return the same for other processes; see :meth:`AlignedQuery.portable`."""
        found = copy(self)
        found.reader = copy(self.reader)
        found.reader.opened = self.reader.opened.portable(columns)
        return found

    def _reader(self, rows: range | None) -> QueryReader:
        reader = self.reader
        return reader if rows is None else reader.of(np.arange(rows.start, rows.stop))
