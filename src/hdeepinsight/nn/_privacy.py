"""Differential privacy: noise, budgets, private directions, and sums of clipped gradients."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from math import exp, log, sqrt
from typing import Final

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import Sampler

from hdeepinsight._errors import check_number, invalid, need_extra

#: Releases: noise multiplier, sampling rate, and number of repetitions.
History = Sequence[tuple[float, float, int]]
#: Orders of the Rényi divergence.
ORDERS: Final = [1 + x / 10 for x in range(1, 100)] + [*range(11, 64), 128, 256, 512]
_NOISE_BOUNDS: Final = 0.3, 1e4
#: Number of cells with dense residuals in memory.
_BLOCK = 1024
#: Fraction of the budget for the mean of all cells, in units of a Gaussian release, and the maximum
#: length of residuals. Both were chosen on datasets that are not part of the benchmark.
_CENTRE_SHARE, _LONGEST_RESIDUAL = 0.1, 0.75
#: Maximum number of values in the per-cell gradients of one chunk.
MAX_VALUES = 2**25

# Saved reports contain this sentence, and are read for it.
UNSEEDED: Final = "not private: noise_seed is known, so that the noise can be subtracted."
_ALWAYS: Final = (
    "The unit of privacy is one cell, added or removed, not one donor; the number of cells is "
    "regarded as public.",
    "Anything else computed on these cells and released, including settings chosen on them, adds "
    "to epsilon.",
    "Leaks through floating-point arithmetic are out of scope.",
)
_GENES: Final = (
    "The list of genes is regarded as public; a choice based on these cells is not covered."
)


def privacy_conditions(
    *specific: str, genes_are_public: bool, noise_seed: int | None
) -> tuple[str, ...]:
    """Return the assumptions and limits of a guarantee, as sentences.

    Parameters
    ----------
    *specific
        Conditions of a method.
    genes_are_public
        Whether the genes were chosen without the cells.
    noise_seed
        Seed of the noise, which voids the guarantee.

    Examples
    --------
    >>> from hdeepinsight.nn import privacy_conditions
    >>> len(privacy_conditions("Only weights.", genes_are_public=True, noise_seed=None))
    4
    """
    seeded = () if noise_seed is None else (UNSEEDED,)
    return (*seeded, *specific, *_ALWAYS, *(() if genes_are_public else (_GENES,)))


def check_delta(delta: float, n_cells: int = 1) -> None:
    """Raise ``ValueError`` unless delta is above 0 and below one over the number of cells.

    Examples
    --------
    >>> from hdeepinsight.nn import check_delta
    >>> check_delta(1e-5, n_cells=3000)
    """
    check_number("delta", delta, hint="Omit it to use 1e-5.")
    if not 0 < delta * n_cells < 1:
        expected = f"above 0 and below 1 / {n_cells:,}, one over the number of cells"
        hint = "With a larger delta, a mechanism may publish complete cells."
        raise invalid("delta", delta, expected, hint)


def gaussian_noise_sd(epsilon: float, delta: float) -> float:
    r"""Compute the noise that makes a release with sensitivity 1 (ε, δ)-differentially private.

    Parameters
    ----------
    epsilon, delta
        Privacy budget.

    Returns
    -------
    float
        Smallest standard deviation for the analytic Gaussian mechanism.

    Raises
    ------
    ValueError
        If ``epsilon`` is not positive, or ``delta`` is not between 0 and 1.

    Notes
    -----
    Balle and Wang (2018), arXiv:1805.06530: with :math:`s = \sigma / \Delta`, the mechanism is
    private if and only if :math:`\Phi(1/(2s) - \varepsilon s) - e^\varepsilon \Phi(-1/(2s) -
    \varepsilon s) \le \delta`.

    Examples
    --------
    >>> from hdeepinsight.nn import gaussian_noise_sd
    >>> round(gaussian_noise_sd(1.0, 1e-5), 2)
    3.73
    """
    check_number("epsilon", epsilon, 1e-3, 1e2, hint="Common values are 0.1 to 10.")
    check_delta(delta)

    def excess(s: float) -> float:
        tail = log_ndtr(-0.5 / s - epsilon * s) + epsilon
        return float(ndtr(0.5 / s - epsilon * s) - exp(tail) - delta)

    # The classical bound is an upper bound for epsilon <= 1, and twice it for larger epsilon.
    high = 2 * sqrt(2 * np.log(1.25 / delta)) / min(epsilon, 1.0)
    return float(brentq(excess, 1e-3, high, xtol=1e-12))


@lru_cache(maxsize=256)
def _rdp_of_a_step(noise: float, rate: float) -> np.ndarray:
    rdp = need_extra("opacus.accountants.analysis.rdp", "privacy", "Differential privacy")
    found = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=ORDERS)
    return np.asarray(found)


def spent_epsilon(history: History, delta: float) -> float:
    """Compute epsilon of noisy releases by Rényi divergences of the sampled Gaussian mechanism.

    Parameters
    ----------
    history
        Noise multiplier, sampling rate and number of repetitions of each kind of release.
    delta
        Probability with which epsilon may be exceeded.

    Raises
    ------
    ImportError
        If opacus is not installed.

    Examples
    --------
    >>> from hdeepinsight.nn import spent_epsilon
    >>> round(spent_epsilon([(3.46, 210 / 2122, 842)], 1e-5), 2)
    3.99
    """
    rdp = need_extra("opacus.accountants.analysis.rdp", "privacy", "Differential privacy")
    spent = sum(steps * _rdp_of_a_step(noise, rate) for noise, rate, steps in history)
    with warnings.catch_warnings():  # at the last order the bound is loose but valid
        warnings.filterwarnings("ignore", message="Optimal order is")
        return float(rdp.get_privacy_spent(orders=ORDERS, rdp=spent, delta=delta)[0])


def solve_noise(
    epsilon: float, delta: float, sample_rate: float, steps: int, before: History = ()
) -> float:
    """Compute the smallest noise multiplier with which steps after other releases meet a budget.

    Parameters
    ----------
    epsilon, delta
        Privacy budget.
    sample_rate, steps
        Sampling rate and number of the steps.
    before
        Earlier releases, as in `spent_epsilon`.

    Raises
    ------
    ValueError
        If no noise meets the budget.

    Examples
    --------
    >>> from hdeepinsight.nn import solve_noise
    >>> round(solve_noise(4.0, 1e-5, 210 / 2122, 842), 2)
    3.45
    """

    def excess(log_noise: float) -> float:
        return spent_epsilon([*before, (exp(log_noise), sample_rate, steps)], delta) - epsilon

    low, high = map(log, _NOISE_BOUNDS)
    if excess(high) > 0:
        hint = f"Increase it or delta, or take fewer than {steps:,} steps."
        raise invalid("target_epsilon", epsilon, "large enough to be met with noise", hint)
    if excess(low) < 0:
        return _NOISE_BOUNDS[0]
    return exp(float(brentq(excess, low, high, xtol=1e-5)) + 1e-5)


def private_directions(
    unit_rows: Callable[[], Iterable[sp.csr_matrix]],
    n_cells: int,
    noise_sd: float,
    rng: np.random.Generator,
    *,
    n_comps: int,
    centred: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute a noisy mean and noisy leading components of unit vectors; see `tl.dp_pca`.

    Parameters
    ----------
    unit_rows
        Function that returns the cells as blocks of rows with norm 1 or 0, at each call.
    n_cells
        Number of cells.
    noise_sd
        Standard deviation of the noise of a single release with sensitivity 1 at the total budget.
    rng
        Random number generator of the noise.
    n_comps, centred
        As in `tl.dp_pca`.

    Returns
    -------
    centre, components, eigenvalues
        Arrays of shapes ``(n_genes,)``, ``(n_comps, n_genes)`` and ``(n_comps,)``.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.nn import private_directions
    >>> rows = sp.csr_matrix(np.eye(4)[[0] * 90 + [1] * 60])
    >>> rng = np.random.default_rng(0)
    >>> found = private_directions(lambda: [rows], 150, 0.0, rng, n_comps=1)
    >>> found[0].round(1).tolist(), np.abs(found[1]).round(2).tolist()
    ([0.6, 0.4, 0.0, 0.0], [[0.71, 0.71, 0.0, 0.0]])
    """
    centre, longest = np.zeros(next(iter(unit_rows())).shape[1]), 1.0
    d = len(centre)
    if centred:
        total = sum(np.asarray(block.sum(axis=0)).ravel() for block in unit_rows())
        centre = (total + rng.normal(scale=noise_sd / sqrt(_CENTRE_SHARE), size=d)) / n_cells
        longest, noise_sd = _LONGEST_RESIDUAL, noise_sd / sqrt(1 - _CENTRE_SHARE)
    moments = np.zeros((d, d))
    for block in unit_rows():
        for start in range(0, block.shape[0], _BLOCK):
            rows = block[start : start + _BLOCK].toarray()
            residuals = (rows - centre) * rows.any(axis=1, keepdims=True)
            length = np.linalg.norm(residuals, axis=1, keepdims=True)
            residuals *= np.minimum(1.0, longest / np.maximum(length, 1e-12))
            moments += residuals.T @ residuals
    noise = rng.normal(scale=longest**2 * noise_sd / 2, size=(d, d))
    moments += noise + noise.T  # variance σ² on the diagonal and σ² / 2 off it
    values, vectors = eigh(moments, subset_by_index=(d - n_comps, d - 1))
    components = np.ascontiguousarray(vectors[:, ::-1].T)
    # The sign of an eigenvector is arbitrary: make its sum positive.
    components *= np.where(components.sum(axis=1) < 0, -1.0, 1.0)[:, None]
    return centre, components, values[::-1]


def noise_generator(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a random generator, seeded by the operating system unless a seed is given.

    Examples
    --------
    >>> from hdeepinsight.nn import noise_generator
    >>> noise_generator(None).initial_seed() != noise_generator(None).initial_seed()
    True
    """
    number = secrets.randbits(63) if seed is None else seed
    return torch.Generator(device).manual_seed(number)


class PoissonSampler(Sampler[list[int]]):
    """Poisson sampling: each cell is drawn independently with the same probability.

    Parameters
    ----------
    n_cells, sample_rate
        Number of cells, and probability of each.
    noise_seed
        Seed of the sampling, for tests.

    Examples
    --------
    >>> from hdeepinsight.nn import PoissonSampler
    >>> [len(cells) for cells in PoissonSampler(5, 1.0)]
    [5]
    """

    def __init__(self, n_cells: int, sample_rate: float, noise_seed: int | None = None) -> None:
        self.n_cells, self.sample_rate = n_cells, sample_rate
        self.generator = noise_generator(noise_seed)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[list[int]]:
        drawn = torch.rand(self.n_cells, generator=self.generator) < self.sample_rate
        yield drawn.nonzero().ravel().tolist()


def clipped_sum(
    network: nn.Module, weights: Tensor, inputs: Sequence[Tensor], max_norm: float
) -> dict[str, Tensor]:
    """Compute the sum of the per-cell gradients, each clipped to a maximum norm.

    Parameters
    ----------
    network
        Network that returns the losses of each cell, ``(n_cells, n_losses)``, without interaction
        of cells.
    weights
        Weights of the losses, shape ``(n_losses,)``.
    inputs
        Inputs of the network, one row per cell.
    max_norm
        Maximum norm of the gradient of a cell over all trainable parameters.

    Returns
    -------
    Sum for each trainable parameter of the network, by name.

    References
    ----------
    Abadi et al., Deep learning with differential privacy, CCS 2016, arXiv:1607.00133.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import clipped_sum
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> clipped_sum(linear, torch.ones(1), [torch.tensor([[5.0], [0.5]])], 1.0)["weight"]
    tensor([[1.5000]])
    """
    every = network.named_parameters()
    trained = {name: value.detach() for name, value in every if value.requires_grad}

    def loss_of(parameters: dict[str, Tensor], *cell: Tensor) -> Tensor:
        rows = tuple(part[None] for part in cell)
        losses: Tensor = functional_call(network, parameters, rows)
        total: Tensor = losses[0] @ weights
        return total

    per_cell = vmap(grad(loss_of), in_dims=(None, *([0] * len(inputs))))
    chunk_size = max(1, MAX_VALUES // sum(value.numel() for value in trained.values()))
    sums = {name: torch.zeros_like(value) for name, value in trained.items()}
    for start in range(0, len(inputs[0]), chunk_size):
        rows = per_cell(trained, *(part[start : start + chunk_size] for part in inputs))
        squared = [row.flatten(1).square().sum(dim=1) for row in rows.values()]
        norm = torch.stack(squared).sum(dim=0).sqrt()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for name, row in rows.items():
            sums[name] += torch.einsum("n,n...->...", factor, row)
    return sums
