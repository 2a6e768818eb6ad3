"""What kind of names are these?"""

import pytest

from hdeepinsight.data._names import (
    examples,
    guess_species,
    has_versions,
    identifier_kind,
    share_barcodes,
    share_genes,
    strip_version,
)

HUMAN = [
    "CD3D",
    "MS4A1",
    "HLA-DRA",
    "C1orf112",
    "AL627309.1",
    "MT-CO1",
    "RP11-34P13.7",
    "NKG7",
    "7SK",
]
MOUSE = ["Cd3d", "Ms4a1", "H2-Aa", "Nkg7", "mt-Co1", "Gm26522", "0610007P14Rik", "Actb", "Lyz2"]
ENSEMBL = ["ENSG00000167286", "ENSG00000105374"]
VERSIONED = ["ENSG00000167286.9", "ENSG00000182378.15_PAR_Y"]


@pytest.mark.parametrize(
    ("names", "kind", "species"),
    [
        pytest.param(HUMAN, "symbol", "human", id="human_symbols"),
        pytest.param(MOUSE, "symbol", "mouse", id="mouse_symbols"),
        pytest.param([n.upper() for n in MOUSE], "symbol", "mouse", id="mouse_in_upper_case"),
        pytest.param(ENSEMBL, "ensembl", "human", id="ensembl"),
        pytest.param(VERSIONED, "ensembl", "human", id="ensembl_with_versions"),
        pytest.param(["ENSMUSG00000032094"] * 3, "ensembl", "mouse", id="ensembl_mouse"),
        pytest.param(["ENSDARG00000036008"], "ensembl", "unknown", id="ensembl_fish"),
        pytest.param(ENSEMBL + HUMAN[:2], "mixed", "human", id="mixed"),
        pytest.param(["0", "1", "2", "915"], "unknown", "unknown", id="numbers"),
        pytest.param(["AAACATACAACCAC-1", "TTTGCATGCCTCAC-1"], "unknown", "unknown", id="barcodes"),
        pytest.param([], "unknown", "unknown", id="none"),
    ],
)
def test_kind_and_species(names, kind, species):
    assert identifier_kind(names) == kind
    assert guess_species(names) == species


@pytest.mark.parametrize(
    ("name", "is_barcode"),
    [
        ("AAACATACAACCAC-1", True),
        ("donor1_AAACCTGCAAGGTTCT-1-ctrl", True),
        ("CTCGAAATCGGATGTT", True),
        ("ACTG1", False),
        ("GATA3", False),
        ("CD3D", False),
    ],
)
def test_barcodes_are_told_from_genes(name, is_barcode):
    assert share_barcodes([name]) == is_barcode
    assert share_genes([name]) == (not is_barcode)


@pytest.mark.parametrize(
    ("name", "stripped"),
    [
        ("ENSG00000167286.9", "ENSG00000167286"),
        ("ENSMUSG00000032094.12", "ENSMUSG00000032094"),
        ("ENSG00000167286", "ENSG00000167286"),
        ("AL627309.1", "AL627309.1"),
        ("RP11-34P13.7", "RP11-34P13.7"),
        # the copy on the other chromosome is another gene
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378.15_PAR_Y"),
    ],
)
def test_only_ensembl_versions_are_stripped(name, stripped):
    assert strip_version(name) == stripped


def test_versions_are_noticed():
    assert has_versions(VERSIONED)
    assert not has_versions([*ENSEMBL, *HUMAN])


def test_examples_say_how_many_more_there_are():
    assert examples(["a", "b"]) == "a, b"
    assert examples(range(1003)) == "0, 1, 2 and 1,000 more"
