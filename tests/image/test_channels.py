"""Proteins on the gene image."""

import numpy as np
import pytest

from hdeepinsight.image import GeneLayout, protein_layout

GENES = ("CD3D", "CD3E", "CD3G", "CD4", "PTPRC", "NCAM1")


@pytest.fixture
def layout():
    # CD3D, CD3E and CD3G in a row, the others apart, on 6 × 6 pixels.
    return GeneLayout(GENES, [7, 8, 9, 30, 21, 5], 6)


def test_a_protein_is_at_the_pixel_of_its_gene(layout):
    placed = protein_layout(layout, {"CD56": ("NCAM1",), "CD4": ("CD4",)})
    assert dict(zip(placed.genes, placed.pixel.tolist(), strict=True)) == {"CD4": 30, "CD56": 5}


def test_a_protein_of_several_genes_is_at_their_centre(layout):
    placed = protein_layout(layout, {"CD3": ("CD3D", "CD3E", "CD3G")})
    assert placed.pixel.tolist() == [8]


def test_proteins_of_one_gene_are_neighbours(layout):
    isoforms = {"CD45": ("PTPRC",), "CD45RA": ("PTPRC",), "CD45RO": ("PTPRC",)}
    placed = protein_layout(layout, isoforms)
    rows, columns = np.divmod(placed.pixel, 6)
    assert 21 in placed.pixel
    assert (np.abs(rows - 3) + np.abs(columns - 3)).max() == 1
    assert len(set(placed.pixel.tolist())) == 3


def test_unplaced_proteins_take_pixels_without_genes_from_the_rim(layout):
    placed = protein_layout(layout, {"IgG1": (), "IgG2": ("NOT_HERE",), "CD4": ("CD4",)})
    pixel = dict(zip(placed.genes, placed.pixel.tolist(), strict=True))
    assert pixel == {"CD4": 30, "IgG1": 0, "IgG2": 1}
    assert placed.report == {"placed": 1.0, "unplaced": 2.0}


def test_unplaced_proteins_still_find_a_pixel_where_genes_fill_the_image():
    full = GeneLayout(tuple("ABCD"), [0, 1, 2, 3], 2)
    placed = protein_layout(full, {"P": ("A",), "Q": (), "R": ()})
    assert sorted(placed.pixel.tolist()) == [0, 1, 2]


def test_the_order_of_proteins_does_not_matter(layout):
    genes = {"CD45RA": ("PTPRC",), "IgG1": (), "CD45RO": ("PTPRC",), "CD3": ("CD3D", "CD3G")}
    backwards = dict(reversed(genes.items()))
    assert protein_layout(layout, genes) == protein_layout(layout, backwards)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        pytest.param({}, "at least one gene", id="none"),
        pytest.param({f"P{i}": () for i in range(37)}, "37 proteins and 6 × 6 pixels", id="many"),
    ],
)
def test_invalid_layouts_of_proteins_are_refused(layout, genes, message):
    with pytest.raises(ValueError, match=message):
        protein_layout(layout, genes)
