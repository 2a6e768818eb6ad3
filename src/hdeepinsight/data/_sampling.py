"""Sample cells, split them into training and held-out cells, and find cells shared by both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hdeepinsight._errors import batch_column, check_number, counted, examples
from hdeepinsight.data._counts import CountSource, open_counts
from hdeepinsight.data._genes import align_genes
from hdeepinsight.data._store import DataLike

#: Smallest number of held-out cells per label.
MIN_HELD_OUT = 5
#: Cells of a large reference from which statistics are computed.
N_SOME = 50_000
#: Cells with fewer expressed genes may be identical by chance.
FEW_GENES = 10


def draw_evenly(
    groups: np.ndarray, n_most: int, rng: np.random.Generator, first: np.ndarray | None = None
) -> np.ndarray:
    """Sample at most ``n_most`` cells, with equal numbers per group as far as possible.

    Parameters
    ----------
    groups
        Label or batch of each cell, shape ``(n_cells,)``.
    n_most
        Maximum number of cells.
    rng
        Random number generator.
    first
        Whether a cell is sampled before others of its group, shape ``(n_cells,)``.

    Returns
    -------
    Positions of the cells, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import draw_evenly
    >>> rows = draw_evenly(np.repeat([0, 1], [90, 10]), 20, np.random.default_rng(0))
    >>> int((rows < 90).sum()), int((rows >= 90).sum())
    (10, 10)
    """
    if len(groups) <= n_most:
        return np.arange(len(groups))
    order = rng.permutation(len(groups))
    if first is not None:
        order = order[np.argsort(~first[order], kind="stable")]
    rank = pd.Series(order).groupby(groups[order]).cumcount().to_numpy()  # within its group
    return np.sort(order[np.argsort(rank, kind="stable")[:n_most]])


def draw_some(groups: np.ndarray, seed: int) -> np.ndarray:
    """Sample 50,000 cells of a large reference, and more of rare groups, to compute statistics.

    Parameters
    ----------
    groups
        Label of each cell, shape ``(n_cells,)``.
    seed
        Seed of the sample.

    Returns
    -------
    Positions of the cells, ascending; of up to 50,000 cells all.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import draw_some
    >>> groups = np.repeat([0, 1], [100_000, 10])
    >>> rows = draw_some(groups, seed=0)
    >>> len(rows) < 60_000, int((groups[rows] == 1).sum())
    (True, 10)
    """
    rows, rng = np.arange(len(groups)), np.random.default_rng(seed)
    if len(rows) <= N_SOME:
        return rows
    rare = draw_evenly(groups, N_SOME // 5, rng)
    return np.union1d(rng.permutation(rows)[:N_SOME], rare)


def hold_out_cells(
    nodes: np.ndarray, fraction: float, rng: np.random.Generator, *, shuffle: bool = True
) -> np.ndarray:
    """Hold out a fraction of the cells of each label.

    Parameters
    ----------
    nodes
        Node of each cell's label, shape ``(n_cells,)``; unlabelled cells (0) are not held out.
    fraction
        Fraction to hold out. No cells are held out of labels with fewer than 5 such cells, so that
        rare types keep all their cells for training.
    rng
        Random number generator.
    shuffle
        Sample the cells; otherwise the first ones of each label are held out.

    Returns
    -------
    Whether each cell is held out, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> nodes = np.repeat([0, 1, 2, 3], [50, 100, 60, 49])
    >>> held_out = hold_out_cells(nodes, 0.1, np.random.default_rng(0))
    >>> np.bincount(nodes[held_out], minlength=4).tolist()
    [0, 10, 6, 0]
    """
    held_out = np.zeros(len(nodes), dtype=bool)
    for node in np.unique(nodes[nodes > 0]):
        cells = np.flatnonzero(nodes == node)
        n_held_out = int(len(cells) * fraction)
        if n_held_out >= MIN_HELD_OUT:
            held_out[(rng.permutation(cells) if shuffle else cells)[:n_held_out]] = True
    return held_out


def deal_out(
    nodes: np.ndarray, n_members: int, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Assign to each ensemble member the cells that it is not trained on.

    Parameters
    ----------
    nodes
        Node of each cell's label, shape ``(n_cells,)``; unlabelled cells (0) are not assigned.
    n_members
        Number of members.
    share
        Approximate share of the cells of a type that each member is not trained on.
    rng
        Random number generator.

    Returns
    -------
    Member that is not trained on each cell, shape ``(n_cells,)``; -1 for none.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import deal_out
    >>> member = deal_out(np.repeat([0, 1], [3, 20]), 3, 0.1, np.random.default_rng(0))
    >>> np.bincount(member[:3] + 1).tolist(), np.bincount(member[3:] + 1).tolist()
    ([3], [14, 2, 2, 2])
    """
    member, n_parts = np.full(len(nodes), -1), max(n_members, round(1 / share))
    for node in np.unique(nodes[nodes > 0]):
        cells = rng.permutation(np.flatnonzero(nodes == node))
        if len(cells) > 1:
            member[cells] = rng.permutation(n_parts)[np.arange(len(cells)) % n_parts]
    member[member >= n_members] = -1
    return member


def split_three(
    nodes: np.ndarray,
    train_size: float | None,
    validation_size: float | None,
    rng: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    shuffle: bool = True,
) -> list[np.ndarray]:
    """Split cells into training, held-out and test cells.

    Parameters
    ----------
    nodes
        Node of each cell's label, shape ``(n_cells,)``.
    train_size
        Fraction of training cells; by default all cells that are not held out.
    validation_size
        Fraction of held-out cells; by default ``1 - train_size``, or 0.1.
    rng
        Random number generator.
    groups
        Groups to hold out completely, see `hold_out_groups`; otherwise cells are held out within
        each label, see `hold_out_cells`.
    shuffle
        Sample the cells; otherwise the first ones are used.

    Returns
    -------
    Positions of the training, held-out and test cells, each ascending.

    Raises
    ------
    ValueError
        If a fraction is out of range, or there are no training cells.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import split_three
    >>> parts = split_three(np.ones(100), 0.5, 0.2, np.random.default_rng(0))
    >>> [len(part) for part in parts]
    [50, 20, 30]
    """
    if validation_size is None:
        if train_size is not None:
            check_number("train_size", train_size, 0, 1, hint="Omit it to use the default.")
        validation_size = 0.1 if train_size is None else round(1 - train_size, 12)
    check_number("validation_size", validation_size, 0, 1, hint="Pass 0 to hold out none.")
    rest_size = round(1 - validation_size, 12)
    train_size = rest_size if train_size is None else train_size
    check_number("train_size", train_size, 0, rest_size, hint="Omit it to use all other cells.")
    if groups is None:
        held_out = hold_out_cells(nodes, validation_size, rng, shuffle=shuffle)
    elif validation_size:
        held_out = hold_out_groups(nodes, groups, validation_size, rng)
    else:
        msg = "A column of groups to hold out has no effect if no cells are held out. Omit it, or"
        raise ValueError(f"{msg} raise validation_size.")
    rest = np.flatnonzero(~held_out)
    n_train = len(rest) if np.isclose(train_size, rest_size) else int(train_size * len(held_out))
    if not n_train:
        hint = "Lower validation_size, or raise train_size."
        raise ValueError(f"No cell is left to train on. {hint}")
    order = rng.permutation(rest) if shuffle and n_train < len(rest) else rest
    train = np.sort(order[:n_train])
    return [train, np.flatnonzero(held_out), np.setdiff1d(rest, train)]


def given_split(parts: Any, n_cells: int) -> list[np.ndarray]:
    """Check a given split; cells that it does not contain become test cells.

    Parameters
    ----------
    parts
        Positions of the training, held-out and test cells; the last two may be missing or None.
    n_cells
        Total number of cells.

    Returns
    -------
    Positions of the training, held-out and test cells, as from :func:`split_three`.

    Raises
    ------
    ValueError
        If a position is invalid, or a cell occurs twice.

    Examples
    --------
    >>> from hdeepinsight.data import given_split
    >>> [part.tolist() for part in given_split([[0, 3], [1]], 5)]
    [[0, 3], [1], [2, 4]]
    """
    arrays = [np.asarray([] if part is None else part) for part in parts]
    cells = np.concatenate([*arrays, []])
    valid = np.isin(cells, np.arange(n_cells)).all() and np.unique(cells).size == cells.size
    if not valid or not 1 <= len(arrays) <= 3 or not arrays[0].size:
        raise ValueError(
            "external_indexing must be a list with the positions of training, held-out and test "
            f"cells, each from 0 to {n_cells - 1:,} and in one of them only. Correct it; "
            "numpy.flatnonzero converts masks to positions."
        )
    train, held_out = [*arrays, np.zeros(0)][:2]
    rest = np.setdiff1d(np.arange(n_cells), np.concatenate([train, held_out]))
    return [part.astype(np.int64) for part in (train, held_out, rest)]


def hold_out_groups(
    nodes: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Hold out complete donors, studies or batches.

    Parameters
    ----------
    nodes
        Node of each cell's label, shape ``(n_cells,)``.
    groups
        Group of each cell, shape ``(n_cells,)``.
    fraction
        Fraction of cells to hold out; groups are added in random order until it is reached. The
        last group with cells of a label is never held out.
    rng
        Random number generator.

    Returns
    -------
    Whether each cell is held out, shape ``(n_cells,)``.

    Raises
    ------
    ValueError
        If no group can be held out.

    Examples
    --------
    >>> import numpy as np
    >>> nodes, groups = np.array([1, 2, 1, 2, 1, 3]), np.array(list("aabbcc"))
    >>> hold_out_groups(nodes, groups, 0.3, np.random.default_rng(0)).tolist()[4:]
    [False, False]
    """
    names, held_out = np.unique(groups), np.zeros(len(nodes), dtype=bool)
    for name in rng.permutation(names):
        candidate = held_out | (groups == name)
        if np.isin(nodes[candidate], nodes[~candidate]).all():
            held_out = candidate
        if held_out.sum() >= fraction * len(nodes):
            break
    if not held_out.any():
        raise ValueError(
            f"None of the {len(names)} groups in the split column can be held out, because each "
            "has cells of a label that no other group has. Pass split_key=None to split by cell."
        )
    return held_out


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
    tested = open_counts(test, arguments={})
    counts, donors, names = {}, {}, {}
    for part, each in ({"train": [train]} | ({"pretrain": further} if further else {})).items():
        sources = [open_counts(cells, arguments={}) for cells in each]
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
