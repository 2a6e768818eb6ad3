"""Single-step generator of cells, and losses that compare small with large sets of cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_TIMES = 1000
#: Dropout rate of labels, which also trains the unconditional denoiser.
LABEL_DROPOUT = 0.1


def noise_schedule(n_times: int = N_TIMES) -> Tensor:
    r"""Compute the remaining share of the signal at each diffusion time.

    It is :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)` with :math:`\beta` linear from 0.0001
    to 0.02 (Ho et al. 2020, arXiv:2006.11239).

    Examples
    --------
    >>> noise_schedule()[[0, 999]].tolist()
    [0.9998..., 4.03...e-05]
    """
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, n_times, dtype=torch.float64), 0).float()


class ComponentDecoder(nn.Module):
    """Linear map between standardised principal components and log values.

    Parameters
    ----------
    components
        Orthonormal directions, shape ``(n_latent, n_genes)``.
    mean
        Mean of each gene.
    scale
        Standard deviation of the cells along each component.
    class_means
        Mean of each class, shape ``(n_classes, n_genes)``. The residual that the components do not
        represent is added to all cells of the class.

    Examples
    --------
    >>> import torch
    >>> means = torch.tensor([[1.0, 1.0, 5.0]])
    >>> decoder = ComponentDecoder(torch.eye(2, 3), torch.ones(3), torch.ones(2), means)
    >>> decoder(torch.tensor([[2.0, -2.0]]), torch.tensor([0]))
    tensor([[3., 0., 5.]])
    """

    components: Tensor
    mean: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(
        self, components: Tensor, mean: Tensor, scale: Tensor, class_means: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("components", components)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale.clamp(min=1e-6))
        self.register_buffer("offset", class_means - self._linear(self.encode(class_means)))

    def encode(self, logged: Tensor) -> Tensor:
        """Compute standardised coordinates, shape ``(n_cells, n_latent)``."""
        return (logged - self.mean) @ self.components.T / self.scale

    def _linear(self, latent: Tensor) -> Tensor:
        return latent * self.scale @ self.components + self.mean

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """Compute log values, clipped at 0, shape ``(n_cells, n_genes)``."""
        return F.relu(self._linear(latent) + self.offset[label])


class ConditionalDenoiser(nn.Module):
    """Denoiser that predicts clean latent coordinates from noisy ones, time and class.

    Because it predicts coordinates instead of noise, a single evaluation generates a cell.

    Parameters
    ----------
    n_latent
        Number of latent dimensions.
    n_classes
        Number of classes; class ``n_classes`` stands for no label.
    width
        Number of hidden units.

    Examples
    --------
    >>> import torch
    >>> net = ConditionalDenoiser(8, 3)
    >>> net(torch.randn(5, 8), torch.tensor(999), torch.tensor([0, 1, 2, 0, 3])).shape
    torch.Size([5, 8])
    """

    signal: Tensor

    def __init__(self, n_latent: int, n_classes: int, width: int = 128) -> None:
        super().__init__()
        self.n_classes, self.width = n_classes, width
        self.register_buffer("signal", noise_schedule())
        self.inputs, self.outputs = nn.Linear(n_latent, width), nn.Linear(width, n_latent)
        self.label = nn.Embedding(n_classes + 1, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
            )
            for _ in range(3)
        )

    def forward(self, noisy: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Predict clean coordinates, shape ``(n_cells, n_latent)``."""
        half = self.width // 2
        frequency = torch.exp(-math.log(1e4) / half * torch.arange(half, device=noisy.device))
        angle = time.reshape(-1, 1) * frequency
        condition = self.time(torch.cat([angle.sin(), angle.cos()], 1)) + self.label(label)
        hidden = self.inputs(noisy)
        for block in self.blocks:
            hidden = hidden + block(hidden + condition)
        found: Tensor = self.outputs(hidden)
        return found

    def noised(self, latent: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Add the noise of a diffusion time to coordinates."""
        signal = self.signal[time].reshape(-1, 1)
        return signal.sqrt() * latent + (1 - signal).sqrt() * noise

    def loss(self, latent: Tensor, label: Tensor) -> Tensor:
        """Compute the squared error; half of the cells use the last time, as in generation."""
        time = torch.randint(len(self.signal), (len(latent),), device=latent.device)
        time[: len(latent) // 2] = len(self.signal) - 1
        dropped = torch.rand(len(latent), device=latent.device) < LABEL_DROPOUT
        noisy = self.noised(latent, time, torch.randn_like(latent))
        return F.mse_loss(self(noisy, time, label.masked_fill(dropped, self.n_classes)), latent)

    def generate(self, code: Tensor, label: Tensor) -> Tensor:
        """Generate clean coordinates from codes, which are used as pure noise."""
        clean: Tensor = self(code, torch.tensor(len(self.signal) - 1, device=code.device), label)
        return clean


class MatchingNetwork(nn.Module):
    """Randomly initialised classifier whose features serve to compare sets of cells.

    Examples
    --------
    >>> import torch
    >>> net = MatchingNetwork(30, 4)
    >>> net.features(torch.rand(5, 30)).shape, net(torch.rand(5, 30)).shape
    (torch.Size([5, 128]), torch.Size([5, 4]))
    """

    def __init__(self, n_genes: int, n_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(n_genes, 256), nn.LayerNorm(256), nn.ReLU()),
            *(nn.Linear(256, 128), nn.LayerNorm(128), nn.ReLU()),
        )
        self.head = nn.Linear(128, n_classes)

    def features(self, logged: Tensor) -> Tensor:
        """Compute the last hidden layer."""
        hidden: Tensor = self.layers(logged)
        return hidden

    def forward(self, logged: Tensor) -> Tensor:
        """Compute logits."""
        logits: Tensor = self.head(self.layers(logged))
        return logits


def class_means(values: Tensor, label: Tensor, n_classes: int) -> Tensor:
    """Compute the mean of each class; 0 for classes without cells.

    Examples
    --------
    >>> import torch
    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3).tolist()
    [[2.0], [0.0], [5.0]]
    """
    sums = values.new_zeros(n_classes, values.shape[1]).index_add(0, label, values)
    sizes = torch.bincount(label, minlength=n_classes).clamp(min=1)
    return sums / sizes.unsqueeze(1)


def distribution_loss(
    real: Tensor, real_label: Tensor, small: Tensor, label: Tensor, n_classes: int
) -> Tensor:
    """Compute the sum of squared distances of class means of features (Zhao and Bilen 2023).

    Examples
    --------
    >>> import torch
    >>> x, y = torch.rand(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> distribution_loss(x, y, x.flip(0), y.flip(0), 2).item() < 1e-12
    True
    """
    gap = class_means(real, real_label, n_classes).detach() - class_means(small, label, n_classes)
    return gap.square().sum()


def gradient_loss(
    net: MatchingNetwork,
    real: Tensor,
    real_label: Tensor,
    small: Tensor,
    label: Tensor,
    n_classes: int,
) -> Tensor:
    """Compute the cosine distance of the gradients of each class's loss (Zhao et al. 2021).

    It is summed over the rows of all weight matrices, and between 0 and 2 per row.

    Examples
    --------
    >>> import torch
    >>> net, x, y = MatchingNetwork(3, 2), torch.rand(4, 3), torch.tensor([0, 0, 1, 1])
    >>> gradient_loss(net, x, y, x, y, 2).item() < 1e-2
    True
    """
    weights = [p for p in net.parameters() if p.ndim == 2]
    total = small.new_zeros(())
    for code in range(n_classes):
        here, there = label == code, real_label == code
        if not here.any():
            continue
        goal = torch.autograd.grad(F.cross_entropy(net(real[there]), real_label[there]), weights)
        own = torch.autograd.grad(
            F.cross_entropy(net(small[here]), label[here]), weights, create_graph=True
        )
        for one, other in zip(goal, own, strict=True):
            total = total + (1 - F.cosine_similarity(one.detach(), other, dim=1, eps=1e-12)).sum()
    return total


def regression_loss(
    real: Tensor, real_label: Tensor, small: Tensor, label: Tensor, n_classes: int, penalty: float
) -> Tensor:
    """Compute the squared error on real cells of a ridge regression fitted to the small set.

    The fit has a closed form and is therefore differentiable with respect to the small set (Nguyen
    et al. 2021, arXiv:2011.00050, with a linear kernel).

    Examples
    --------
    >>> import torch
    >>> x, y = 9 * torch.eye(2, 3), torch.tensor([0, 1])
    >>> regression_loss(x, y, x, y, 2, penalty=1e-3).item() < 1e-6
    True
    """
    centre = class_means(small, label, n_classes).mean(0)
    own, other = small - centre, real - centre
    target = torch.eye(n_classes, device=small.device, dtype=small.dtype) - 1 / n_classes
    ridge = penalty * torch.eye(len(own), device=small.device, dtype=small.dtype)
    found = other @ (own.T @ torch.linalg.solve(own @ own.T + ridge, target[label]))
    loss: Tensor = (found - target[real_label]).square().sum(1).mean()
    return loss
