import numpy as np
import pytest
import torch

from hdeepinsight.image import GeneLayout, Raster


def layout_of(n_genes: int = 12, side: int = 5) -> GeneLayout:
    return GeneLayout.random([f"G{i}" for i in range(n_genes)], side=side, seed=1)


def batch(n_cells: int = 4, n_genes: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    measured = torch.rand(n_cells, n_genes) > 0.3
    return torch.rand(n_cells, n_genes) * measured, measured


def test_equals_a_naive_loop():
    layout, (values, measured) = layout_of(), batch()
    expected = np.zeros((4, 2, 5, 5), dtype=np.float32)
    for cell in range(4):
        for gene, (row, column) in enumerate(layout.coordinates):
            expected[cell, 0, row, column] = values[cell, gene]
            expected[cell, 1, row, column] = measured[cell, gene]
    np.testing.assert_array_equal(Raster(layout)(values, measured).numpy(), expected)


def test_permuting_genes_together_with_pixel_leaves_images_bit_identical():
    layout, (values, measured) = layout_of(), batch()
    order = torch.randperm(12)
    permuted = GeneLayout([layout.genes[i] for i in order], layout.pixel[order.numpy()], 5)
    images = Raster(permuted)(values[:, order], measured[:, order])
    assert torch.equal(images, Raster(layout)(values, measured))


def test_gradient_of_a_gene_is_the_gradient_of_its_pixel():
    layout, (values, measured) = layout_of(), batch()
    values.requires_grad_()
    images = Raster(layout)(values, measured)
    images.retain_grad()
    weight = torch.randn_like(images)
    torch.sin(images * weight).pow(2).sum().backward()
    row, column = torch.tensor(layout.coordinates).T
    assert torch.equal(values.grad, images.grad[:, 0, row, column])
    assert values.grad.abs().sum() > 0


def test_gradcheck():
    values = torch.rand(2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Raster(layout_of(), "rgb"), (values,))


def test_one_mask_for_all_cells_equals_the_repeated_mask():
    raster, (values, measured) = Raster(layout_of()), batch()
    once = raster(values, measured[0])
    assert torch.equal(once, raster(values, measured[:1].expand(4, -1)))
    assert torch.equal(raster(values), raster(values, torch.ones(12)))


def test_channels():
    layout, (values, measured) = layout_of(), batch()
    masked = Raster(layout)(values, measured)
    single = Raster(layout, "single")(values, measured)
    rgb = Raster(layout, "rgb")(values, measured)
    assert single.shape == (4, 1, 5, 5)
    assert torch.equal(single[:, 0], masked[:, 0])
    assert rgb.shape == (4, 3, 5, 5)
    assert all(torch.equal(rgb[:, i], single[:, 0]) for i in range(3))
    assert [Raster(layout, c).n_channels for c in ("masked", "single", "rgb")] == [2, 1, 3]


def test_images_have_the_dtype_of_the_values():
    for dtype in [torch.float64, torch.float32, torch.bfloat16]:
        values, measured = batch()
        assert Raster(layout_of())(values.to(dtype), measured).dtype == dtype


def test_pixels_are_a_buffer_that_is_not_stored():
    raster = Raster(layout_of())
    assert raster.state_dict() == {}
    assert [name for name, _ in raster.named_buffers()] == ["pixel"]


def test_batch_without_cells():
    assert Raster(layout_of())(torch.zeros(0, 12), torch.ones(12)).shape == (0, 2, 5, 5)


def test_wrong_number_of_genes_is_refused():
    with pytest.raises(ValueError, match=r"\(n_cells, 12\).*got \(4, 11\)"):
        Raster(layout_of())(torch.zeros(4, 11))


def test_unknown_channels_are_refused():
    with pytest.raises(ValueError, match="one of 'masked', 'single', 'rgb'"):
        Raster(layout_of(), "grey")


def test_repr_names_the_shape():
    assert repr(Raster(layout_of())) == "Raster(12 genes on 5 × 5, channels='masked')"


@pytest.mark.gpu
def test_same_image_on_the_gpu():
    values, measured = batch()
    raster = Raster(layout_of())
    here = raster(values, measured)
    there = raster.cuda()(values.cuda(), measured.cuda())
    assert there.is_cuda
    assert torch.equal(there.cpu(), here)
