"""Names, genes and counts of surface proteins."""

import warnings
from importlib.resources import files

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hdeepinsight.data import (
    InputError,
    ProteinCoverageWarning,
    align_proteins,
    clean_protein_name,
    protein_genes,
    protein_key,
    protein_names,
    read_proteins,
)


def modality(names, counts=None, layers=None):
    counts = np.arange(1.0, 1 + 4 * len(names)).reshape(4, -1) if counts is None else counts
    var = pd.DataFrame(index=names)
    return ad.AnnData(np.asarray(counts, dtype=np.float32), var=var, layers=layers)


def test_vendor_affixes_are_removed():
    for name, cleaned in [
        ("CD3_TotalSeqB", "CD3"),
        ("CD3-TotalSeqC", "CD3"),
        ("CD3_TotalC", "CD3"),
        ("anti-CD56", "CD56"),
        ("ADT_CD16", "CD16"),
        ("adt_anti-human-CD19", "CD19"),
        ("Hu.CD45RA", "CD45RA"),
        ("HuMs.CD44", "CD44"),
        ("A0034-CD3", "CD3"),
        ("CD3-A0034", "CD3"),
        ("CD4:SK3|CD4|AHS0032|pAbO", "CD4"),
        ("CD45RA_HI100", "CD45RA"),
        ("HLA-DR_L243", "HLA-DR"),
        ("CD279 (PD-1)", "CD279"),
        ("CD4-2", "CD4"),
        ("PD-1", "PD-1"),
        ("TCR_alpha_beta", "TCR_alpha_beta"),
        ("CD235a-b", "CD235a-b"),
        ("IgG1_control_TotalSeqB", "IgG1_control"),
        ("TotalSeq", "TotalSeq"),
        ("---", "---"),
    ]:
        assert clean_protein_name(name) == cleaned


def test_all_names_of_a_protein_have_one_key():
    for names in [
        ("CD16", "FCGR3A", "anti-CD16_TotalSeqB", "cd16"),
        ("CD279", "PD1", "PD-1", "PDCD1"),
        ("CD8", "CD8a", "CD8A_TotalSeqC"),
        ("CD366", "Tim3", "TIM-3", "HAVCR2"),
        ("TCRab", "TCR_alpha_beta"),
        ("HLA-DR", "HLA.DR", "HLADR"),
    ]:
        assert len({protein_key(name) for name in names}) == 1


def test_different_proteins_have_different_keys():
    for names in [
        ("CD45", "CD45RA", "CD45RO", "CD45RB"),
        ("CD41", "CD4", "CD42b"),
        ("CD1a", "CD1c", "CD10"),
        ("CD11a", "CD11b", "CD11c"),
        ("IgG1", "IgG2a", "IgG2b"),
        ("CD158", "CD158b", "CD158e1"),
    ]:
        assert len({protein_key(name) for name in names}) == len(names)


def test_proteins_know_their_genes():
    for name, genes in [
        ("CD3", ("CD3D", "CD3E", "CD3G")),
        ("CD16", ("FCGR3A",)),
        ("CD56_TotalSeqB", ("NCAM1",)),
        ("CD45RA", ("PTPRC",)),
        ("HLA-DR", ("HLA-DRA", "HLA-DRB1")),
        ("CD14", ("CD14",)),
        ("CD8a", ("CD8A", "CD8B")),
        ("IgG1", ()),
        ("CD161", ()),
    ]:
        known = ["CD3E", "CD3D", "CD3G", "FCGR3A", "NCAM1", "PTPRC", "HLA-DRA", "HLA-DRB1"]
        assert protein_genes(name, [*known, "CD14", "CD8B", "CD8A"]) == genes


def test_every_entry_of_the_table_is_reached_by_its_own_names():
    text = (files("hdeepinsight.data") / "proteins.tsv").read_text()
    for line in text.splitlines()[1:]:
        protein, others, genes = line.split("\t")
        listed = genes.split()
        assert len(set(listed)) == len(listed) > 0
        for name in (protein, *others.split()):
            assert protein_genes(name, listed) == tuple(listed), name


def test_proteins_of_a_reference_are_sorted_and_once_each():
    names = ["IgG1", "CD4-2", "CD56_TotalSeqB", "CD4-1"]
    assert protein_names(modality(names)) == ["CD4", "CD56", "IgG1"]
    assert protein_names(modality(names[::-1])) == ["CD4", "CD56", "IgG1"]
    numbered = modality(["0", "1", "2", "3"])
    with pytest.raises(InputError, match=r"proteins are numbers \(0, 1, 2 and 1 more\)"):
        protein_names(numbered)
    numbered.var["features"] = names
    assert protein_names(numbered) == ["CD4", "CD56", "IgG1"]
    assert read_proteins(numbered, ["CD56"]).measured.all()


def test_counts_come_in_the_order_of_the_model_and_clones_are_summed():
    counts = [[1, 2, 3], [0, 0, 5]]
    found = read_proteins(modality(["NCAM1", "CD4-1", "CD4-2"], counts), ["CD4", "CD8", "CD56"])
    np.testing.assert_array_equal(found.counts, [[5, 0, 1], [5, 0, 0]])
    np.testing.assert_array_equal(found.measured, [[1, 0, 1], [1, 0, 1]])
    assert found.message == "2 of 3 proteins measured, in 2 of 2 cells."


def test_cells_without_a_single_protein_count_are_not_measured():
    found = read_proteins(modality(["CD4", "CD8"], [[1, 2], [0, 0], [3, 0]]), ["CD4", "CD8"])
    assert found.measured.all(axis=1).tolist() == [True, False, True]


def test_rows_of_other_cells_are_followed():
    rows = np.array([2, -1, 0])
    found = read_proteins(modality(["CD4", "CD8"]), ["CD4", "CD8"], rows=rows)
    np.testing.assert_array_equal(found.counts, [[5, 6], [0, 0], [1, 2]])
    assert found.measured.any(axis=1).tolist() == [True, False, True]


def test_storage_does_not_matter():
    for kind in ["sparse", "layer", "integers"]:
        plain = modality(["CD4", "CD8"])
        expected = read_proteins(plain, ["CD8", "CD4"]).counts
        if kind == "sparse":
            plain.X = sparse.csc_matrix(plain.X)
        elif kind == "integers":
            plain.X = plain.X.astype(np.int64)
        else:
            plain = modality(["CD4", "CD8"], np.zeros((4, 2)), {"counts": plain.X})
        layer = "counts" if kind == "layer" else None
        np.testing.assert_array_equal(
            read_proteins(plain, ["CD8", "CD4"], layer=layer).counts, expected
        )


def test_unusable_modality_warns_and_is_not_measured():
    for adata, message in [
        (modality(["X1", "X2"]), "None of the 2 proteins"),
        (modality(["CD4", "CD8"], np.zeros((4, 2))), "are zero"),
        (modality([], np.zeros((4, 0))), "empty"),
        (modality(["CD4"], np.zeros((0, 1))), "empty"),
    ]:
        rows = np.full(4, -1) if not adata.n_obs else None
        with pytest.warns(ProteinCoverageWarning, match=message):
            found = read_proteins(adata, ["CD4", "CD8"], rows=rows)
        assert found.counts.shape == (4, 2)
        assert not found.measured.any()
        assert "RNA alone" in found.message


def test_centred_values_raise():
    with pytest.raises(InputError, match="scaled"):
        read_proteins(modality(["CD4", "CD8"], [[-1.2, 1.2], [0.5, -0.5]]), ["CD4", "CD8"])


def test_matching_is_by_meaning_and_nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alignment = align_proteins(["PDCD1", "CD3_TotalSeqB", "odd"], ["CD279", "CD3", "CD4"])
    assert alignment.source.tolist() == [0, 1, -1]
    assert alignment.report.missing == ("CD4",)
    assert alignment.report.n_extra == 1
