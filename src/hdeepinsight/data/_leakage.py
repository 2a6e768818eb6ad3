"""Find cells and donors that are shared between training and test data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hdeepinsight._errors import batch_column, counted, examples
from hdeepinsight.data._counts import CountSource, open_counts
from hdeepinsight.data._genes import align_genes
from hdeepinsight.data._store import DataLike

FEW_GENES = 10
"""Cells with fewer expressed genes may be identical by chance."""


@dataclass(frozen=True)
class LeakReport:
    """Report on the cells and donors shared between training and test data.

    Parameters
    ----------
    same_counts
        Names of test cells with the same counts as a training cell, by dataset (``"train"``,
        ``"pretrain"``).
    donors
        Shared donors, by dataset.
    same_names
        Number of test cells with the name of a training cell, by dataset. Names alone are not
        leakage, because barcodes of different runs may coincide.
    n_test
        Number of test cells.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> reference = hdi.datasets.demo().reference
    >>> report = hdi.metrics.check_leakage(reference[:100], reference[90:])
    >>> len(report.same_counts["train"]), report.is_clean
    (10, False)
    """

    same_counts: dict[str, tuple[str, ...]]
    donors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    same_names: dict[str, int] = field(default_factory=dict)
    n_test: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether training and test data share neither cells nor donors."""
        return not any([*self.same_counts.values(), *self.donors.values()])

    def __str__(self) -> str:
        lines = []
        for part, cells in self.same_counts.items():
            n_same, n_names = counted(len(cells), "test cell"), self.same_names.get(part, 0)
            same = f"{n_same} of {self.n_test:,} with the counts of a cell in {part}"
            lines += [f"{same} ({examples(cells)})."] * bool(cells)
            if shared := self.donors.get(part):
                lines.append(f"{counted(len(shared), 'donor')} also in {part}: {examples(shared)}.")
            named = f"{counted(n_names, 'test cell')} with the name of a cell in {part}"
            lines += [f"{named}, possibly by chance."] * bool(n_names)
        return "\n".join(["No leakage was found."] * self.is_clean + lines)


def check_leakage(
    train: DataLike,
    test: DataLike,
    pretrain: DataLike | list[Any] | None = None,
    *,
    donor_key: str | None = None,
) -> LeakReport:
    """Find cells and donors of the test data that a model was trained on.

    Parameters
    ----------
    train
        Labelled training cells, as AnnData or path.
    test
        Test cells.
    pretrain
        Unlabelled training cells, or a list of such datasets.
    donor_key
        Column of ``obs`` with the donor of each cell; by default donors are not compared.

    Returns
    -------
    The report. Counts are compared over the shared genes, except for cells with fewer than 10
    expressed shared genes. Gene selection on test cells cannot be detected.

    Raises
    ------
    InputError
        If a matrix cannot be read as counts.
    KeyError
        If a table has no column ``donor_key``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> reference = hdi.datasets.demo().reference
    >>> print(hdi.metrics.check_leakage(reference[:100], reference[100:200]))
    No leakage was found.
    """
    further = pretrain if isinstance(pretrain, list) else [] if pretrain is None else [pretrain]
    tested = open_counts(test)
    counts, donors, names = {}, {}, {}
    for part, each in ({"train": [train]} | ({"pretrain": further} if further else {})).items():
        sources = [open_counts(cells) for cells in each]
        is_same = np.any([_same_counts(tested, source) for source in sources], axis=0)
        is_named = np.any([tested.obs.index.isin(source.obs.index) for source in sources], axis=0)
        counts[part] = tuple(map(str, tested.obs.index[is_same]))
        names[part] = int(is_named.sum())
        if donor_key is not None:
            theirs = [set(batch_column(s.obs, donor_key).astype(str)) for s in sources]
            mine = set(batch_column(tested.obs, donor_key).astype(str))
            donors[part] = tuple(sorted(mine & set().union(*theirs)))
    return LeakReport(counts, donors, names, tested.n_obs)


def _same_counts(test: CountSource, train: CountSource) -> np.ndarray:
    """Return which test cells have the counts of a training cell, over the shared genes."""
    shared = test.var_names[test.var_names.isin(train.var_names)].unique()
    digests = []
    for source in (test, train):
        parts = [np.zeros((0, 2), dtype=np.uint64)]
        for _, counts in source.chunks(align_genes(source.var_names, list(shared))):
            counts.eliminate_zeros()
            # Each pair of gene and count is hashed; the digest of a cell is the sum of its hashes.
            pairs = counts.indices.astype(np.uint64) << np.uint64(32)
            pairs += np.rint(counts.data).astype(np.uint64)
            sums = np.append(np.uint64(0), pd.util.hash_array(pairs).cumsum(dtype=np.uint64))
            n_genes = np.diff(counts.indptr).astype(np.uint64)
            total = sums[counts.indptr[1:]] - sums[counts.indptr[:-1]]
            parts.append(np.column_stack([total, n_genes]))
        digests.append(np.concatenate(parts))
    (mine, n_genes), (theirs, _) = (each.T for each in digests)
    found: np.ndarray = np.isin(mine, theirs) & (n_genes >= FEW_GENES)
    return found
