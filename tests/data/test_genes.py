"""Matching of genes by name."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdeepinsight.data import (
    GeneCoverageWarning,
    GeneMatchError,
    align_genes,
    resolve_var_names,
)

MODEL = ["CD3D", "MS4A1", "NKG7", "LYZ"]
IDS = ["ENSG00000167286", "ENSG00000156738", "ENSG00000105374", "ENSG00000090382"]

gene_lists = st.lists(st.sampled_from([f"G{i}" for i in range(12)]), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    names=gene_lists,
    genes=st.lists(st.sampled_from([f"G{i}" for i in range(15)]), min_size=1, unique=True),
)
def test_agrees_with_a_group_by_of_pandas(names, genes):
    counts = np.random.default_rng(0).integers(0, 5, size=(3, len(names)))
    naive = (
        pd.DataFrame(counts.T, index=names).groupby(level=0).sum().reindex(genes, fill_value=0).T
    )
    if not set(names) & set(genes):
        with pytest.raises(GeneMatchError):
            align_genes(names, genes)
        return
    alignment = align_genes(names, genes, min_coverage=0, warn_coverage=0)
    np.testing.assert_array_equal(alignment.apply(counts).toarray(), naive.to_numpy())
    assert alignment.measured.tolist() == [gene in names for gene in genes]
    assert alignment.source.tolist() == [names.index(g) if g in names else -1 for g in genes]
    report = alignment.report
    assert report.missing == tuple(gene for gene in genes if gene not in names)
    assert report.duplicated == tuple(gene for gene in genes if names.count(gene) > 1)
    assert report.n_extra == sum(name not in genes for name in names)
    assert report.coverage == pytest.approx(report.n_measured / len(genes))


def test_arrays_have_the_promised_types_and_are_read_only():
    alignment = align_genes(MODEL, MODEL)
    assert alignment.source.dtype == np.int64
    assert alignment.measured.dtype == bool
    for array in (alignment.source, alignment.target, alignment.measured):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_versions_are_ignored_on_both_sides():
    versioned = [f"{name}.{i}" for i, name in enumerate(IDS)]
    for query, model in [(versioned, IDS), (IDS, versioned), (versioned[::-1], versioned)]:
        assert align_genes(query, model).measured.all()
    report = align_genes(versioned, IDS).report
    assert "4 genes matched without Ensembl versions." in report.messages


def test_exact_names_win_over_stripped_ones():
    alignment = align_genes([f"{IDS[0]}.4", IDS[0]], IDS[:1])
    assert alignment.source.tolist() == [1]
    assert alignment.report.duplicated == ()


def test_two_versions_of_one_gene_are_summed():
    alignment = align_genes([f"{IDS[0]}.4", f"{IDS[0]}.5"], IDS[:1])
    assert alignment.apply(np.array([[1, 2]])).toarray().tolist() == [[3]]
    assert alignment.report.duplicated == (IDS[0],)


def test_coverage_is_the_weight_of_the_genes_found():
    alignment = align_genes(["CD3D"], MODEL, weights=np.array([7.0, 1.0, 1.0, 1.0]))
    assert alignment.report.coverage == pytest.approx(0.7)


def test_low_coverage_warns_and_tiny_coverage_is_refused():
    weights = np.array([0.3, 0.1, 0.05, 0.55])
    with pytest.warns(GeneCoverageWarning, match=r"1 of the model's 4 genes .*\(30\.0%"):
        align_genes(["CD3D", "ACTB"], MODEL, weights=weights)
    with pytest.raises(GeneMatchError, match=r"\(5\.0% .*At least 10% is needed"):
        align_genes(["NKG7", "ACTB"], MODEL, weights=weights)


def test_limits_themselves_are_accepted():
    genes = [f"G{i}X" for i in range(10)]
    assert align_genes(genes[:5], genes).report.coverage == 0.5
    with pytest.warns(GeneCoverageWarning):
        align_genes(genes[:1], genes)


def test_mismatches_are_explained():
    for names, model, advice in [
        (
            [n.capitalize() for n in MODEL],
            MODEL,
            "looks like mouse.*model like human.*fold_case=True",
        ),
        (MODEL, [n.capitalize() for n in MODEL], "looks like human.*model like mouse"),
        (IDS, MODEL, "query has ensembl names and the model symbol.*var_names"),
        (MODEL, IDS, "query has symbol names and the model ensembl"),
        (["0", "1", "2"], MODEL, "no gene names.*set adata.var_names"),
        (["AAACATACAACCAC-1", "TTTGCATGCCTCAC-1"], MODEL, "look like cells.*adata.T"),
        (["ACTB", "GAPDH"], MODEL, "Check that.*same genes.*such as ACTB, GAPDH"),
        ([n.lower() for n in MODEL], MODEL, "4 names differ only in case"),
    ]:
        with pytest.raises(
            GeneMatchError, match=f"0 of the model's 4 genes.*At least 10%.*{advice}"
        ):
            align_genes(names, model)


def test_mouse_symbols_in_upper_case_match_and_are_noted():
    mouse = [*MODEL, "GM26522", "0610007P14RIK"]
    alignment = align_genes(mouse, MODEL)
    assert alignment.measured.all()
    assert "query looks like mouse and the model like human" in alignment.report.messages[0]
    assert align_genes(MODEL, MODEL).report.messages == ()


def test_case_is_folded_only_with_fold_case():
    alignment = align_genes(["Nkg7", "Cd3d", "CD3D"], MODEL, fold_case=True)
    assert alignment.source.tolist() == [2, -1, 0, -1]
    assert "1 gene matched regardless of case." in alignment.report.messages


def test_ambiguous_names_match_nothing():
    alignment = align_genes(["AB1", "Cd1"], ["aB1", "Ab1", "CD1"], fold_case=True, warn_coverage=0)
    assert alignment.source.tolist() == [-1, -1, 1]


@pytest.mark.parametrize("categorical", [False, True])
def test_matching_column_is_found(categorical):
    var = pd.DataFrame(
        {"length": range(4), "gene_ids": IDS, "gene_symbols": MODEL}, index=list("wxyz")
    )
    var = var.astype({"gene_ids": "category"}) if categorical else var
    names, column = resolve_var_names(var, [f"{name}.3" for name in IDS])
    assert column == "gene_ids"
    assert names.tolist() == IDS
    alignment = align_genes(var, MODEL[::-1])
    assert alignment.report.column == "gene_symbols"
    assert alignment.source.tolist() == [3, 2, 1, 0]
    assert "var['gene_symbols']" in alignment.report.messages[0]


def test_var_names_win_unless_a_column_is_clearly_better():
    var = pd.DataFrame({"other": MODEL}, index=["CD3D", "MS4A1", "x", "y"])
    assert resolve_var_names(var, MODEL)[1] is None
    assert resolve_var_names(var.set_axis(["CD3D", "x", "y", "z"]), MODEL)[1] == "other"


def test_duplicated_columns_are_both_searched():
    var = pd.DataFrame([IDS, MODEL], index=["name", "name"], columns=list("wxyz")).T
    assert align_genes(var, MODEL).source.tolist() == [0, 1, 2, 3]


def test_missing_names_in_a_column_match_nothing():
    var = pd.DataFrame({"symbol": ["CD3D", None, np.nan, "LYZ"]}, index=list("wxyz"))
    assert align_genes(var, [*MODEL, "nan", "None"], warn_coverage=0).source.tolist() == [
        0,
        -1,
        -1,
        3,
        -1,
        -1,
    ]


def test_a_broken_model_is_refused():
    for genes, weights, message in [
        (["A", "B", "A"], None, "unique names, got 'A'"),
        ([], None, "none at all"),
        (["A", "B"], [1.0], "2 finite numbers.*shape .1,"),
        (["A", "B"], [0.0, 0.0], "sum 0"),
        (["A", "B"], [2.0, -1.0], "from 0 up"),
        (["A", "B"], [np.nan, 1.0], "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            align_genes(["A", "B"], genes, weights=None if weights is None else np.array(weights))


def test_report_reads_well_and_is_plain():
    report = align_genes(["NKG7", "CD3D", "CD3D", "ACTB"], MODEL).report
    text = str(report)
    assert "2 of 4 model genes measured (coverage 50.0%), 1 of 4 columns unused" in text
    assert "missing   MS4A1, LYZ" in text
    assert "summed: CD3D" in text
    assert json.loads(json.dumps(report.to_dict()))["missing"] == ["MS4A1", "LYZ"]


#: Names that a gene has on its own signs, beside letters and digits.
GENES = ["CD3D", "HLA-DRA", "RP11-34P13.7", "MT-CO1", "NKX2-1", "7SK", "LYZ", "MS4A1"]
CHANGES = {
    "GRCh38_": lambda gene: f"GRCh38_{gene}",
    "GRCh38______": lambda gene: f"GRCh38______{gene}",
    "hg19-": lambda gene: f"hg19-{gene}",
    "GRCh38premrna-": lambda gene: f"GRCh38premrna-{gene}",
    "no_separator": lambda gene: f"human{gene}",
    "suffix": lambda gene: f"{gene}_gene",
    "suffix_of_the_species": lambda gene: f"{gene} (Homo sapiens)",
    "outer_blanks": lambda gene: f" {gene} ",
    "no_break_space": lambda gene: f"{gene}\xa0",
    "zero_width": lambda gene: f"\u200b{gene}",
    "cyrillic": lambda gene: gene.replace("C", "\u0421").replace("M", "\u041c") + "\ufeff",
    "bytes": lambda gene: str(gene.encode()),
    "gene_of_ncbi": lambda gene: f"gene-{gene}",
    "tab": lambda gene: f"{gene}\tENSG{len(gene):011d}",
    "quotes": lambda gene: f'"{gene}"',
    "composite_first": lambda gene: f"{gene}|ENSG{len(gene):011d}",
    "composite_last": lambda gene: f"ENSG{ord(gene[1]):06d}{ord(gene[2]):05d}_{gene}",
    "composite_of_three": lambda gene: f"hg19_{gene}_ENSG{ord(gene[1]):011d}",
    "prefix_and_suffix": lambda gene: f"hg38_{gene}.x",
}


def test_systematic_change_is_applied():
    for side in ["query", "model"]:
        for change in CHANGES:
            changed = [CHANGES[change](gene) for gene in GENES]
            names, model = (changed, GENES) if side == "query" else (GENES, changed)
            alignment = align_genes(names, model)
            assert alignment.source.tolist() == list(range(8))
            assert any(text.startswith("8 genes matched") for text in alignment.report.messages)


def test_a_prefix_of_the_genome_leaves_the_other_species_out():
    both = [f"GRCh38_{gene}" for gene in GENES] + [f"mm10_{gene.capitalize()}" for gene in GENES]
    alignment = align_genes(both, GENES)
    assert alignment.target.tolist() == [*range(8), *[-1] * 8]
    assert "8 genes matched without the prefix 'GRCh38_'." in alignment.report.messages


def test_unusual_characters_are_escaped():
    spoilt = [f"{gene}\u200b" for gene in GENES]
    messages = align_genes(spoilt, GENES).report.messages
    assert messages == ("8 genes matched without zero width space (U+200B).",)
    with pytest.raises(GeneMatchError, match=r"such as 'ACTB\\xa0'"):
        align_genes(["ACTB\xa0", "GAPDH\xa0"], GENES)


def test_punctuation_is_ignored():
    dots = [gene.replace("-", ".") for gene in GENES]
    alignment = align_genes(dots, GENES)
    assert alignment.measured.all()
    said = "4 genes matched regardless of '-', '.', '_' and spaces."
    assert said in alignment.report.messages
    # Two genes of the model with one such spelling match none.
    assert align_genes(
        ["A.1", "CD3D"], ["A-1", "A_1", "CD3D"], warn_coverage=0
    ).source.tolist() == [-1, -1, 1]


def test_names_of_antibodies_are_not_made_genes():
    report = align_genes([*GENES, f"{GENES[0]}-1"], GENES).report
    assert report.messages[0].startswith(f"Columns that repeat a gene are not read: {GENES[0]}-1.")
    assert (report.n_measured, report.n_extra) == (8, 1)
    names = [f"{gene}_TotalSeqB" for gene in GENES]
    with pytest.raises(GeneMatchError, match=r"0 of the model's 8 genes"):
        align_genes(names, GENES)


def test_minor_change_is_only_reported():
    model = [f"GENE{i}" for i in range(100)]
    names = [*model[:40], *(f"x_{gene}" for gene in model[40:60])]
    with pytest.warns(GeneCoverageWarning, match="60 genes would match without the prefix 'x_'"):
        alignment = align_genes(names, model)
    assert alignment.report.n_measured == 40


def test_prefix_and_case_are_reported_together():
    with pytest.raises(GeneMatchError, match=r"only in case when .*without the prefix 'MM10_'"):
        align_genes([f"mm10_{gene.capitalize()}" for gene in GENES], GENES)


def test_numbers_match_nothing():
    forms = ["{}", "{}.0", "V{}", "var_{}", "Unnamed: {}", "({})", "{}-0", "{}e0"]
    forms += ["[{}]", "({},)", "#{}", "b'{}'", '"{}"', "0x{}", "{}.", "X.{}"]
    for form in forms:
        numbers = [form.format(i) for i in range(8)]
        with pytest.raises(
            GeneMatchError, match=r"0 of the model's 8 genes.*model's genes are numbers"
        ):
            align_genes(numbers, numbers)
        with pytest.raises(GeneMatchError, match="no gene names"):
            align_genes(numbers, GENES)
        var = pd.DataFrame({"kind": "gene", "features": GENES}, index=numbers)
        report = align_genes(var, GENES).report
        assert report.n_measured == 8
        assert "var['features'], because var_names are numbered" in report.messages[0]


def test_counted_names_are_used_only_without_better_ones():
    for form in ["gene_{}", "Gene{}", "g{}", "G{:06d}", "c{}_rna", "{}_gene", "gene_{}-0", "a[{}]"]:
        counted = [form.format(i) for i in range(8)]
        report = align_genes(counted, counted).report
        assert report.n_measured == 8
        assert f"numbered ({counted[0]}, {counted[1]} and 6 more)" in report.messages[-1]
        var = pd.DataFrame({"symbol": GENES}, index=counted)
        assert align_genes(var, GENES).source.tolist() == list(range(8))
        assert align_genes(var[::-1], GENES).source.tolist() == list(range(8))[::-1]
    for ids in ["FBgn{:07d}", "LOC{}"]:  # of a database
        var = pd.DataFrame({"symbol": GENES}, index=[ids.format(i + 10) for i in range(8)])
        report = align_genes(var, list(var.index)).report
        assert (report.n_measured, report.messages) == (8, ())


def test_other_feature_types_match_nothing():
    for dtype in [object, "category"]:
        for column, gene, other in [
            ("feature_types", "Gene Expression", "Antibody Capture"),
            ("feature_types", "Gene Expression", "CRISPR Guide Capture"),
            ("feature_types", "Gene Expression", "Multiplexing Capture"),
            ("feature_types", "Gene Expression", "Custom"),
            ("feature_types", "Gene Expression", "Peaks"),
            ("modality", "rna", "something else"),
            ("feature_biotype", "gene", "spike-in"),
            ("gene_biotype", "protein_coding", "Antibody Capture"),
            ("gene_biotype", "lncRNA", "ADT"),
            ("Feature_Types", "Gene Expression", "hashtag"),
            ("Feature Types", "Gene Expression", "hashtag"),
            ("type", "Gene Expression", "Antibody Capture"),
            ("feature_types", None, "protein"),
            ("FeatureType", "GEX", "ADT"),
            ("assay", "RNA", "ADT"),  # by its values, whatever its name
        ]:
            kinds = pd.Series([gene] * 6 + [other] * 2, index=GENES, dtype=object).astype(dtype)
            alignment = align_genes(pd.DataFrame({column: kinds}), GENES)
            assert alignment.measured.tolist() == [True] * 6 + [False] * 2
            assert (
                f"2 columns are not genes ({other}) and are ignored." in alignment.report.messages
            )
    for kinds in ["protein_coding", "protein coding", "lncRNA", "TR_V_gene"]:
        var = pd.DataFrame({"gene_biotype": ["misc_RNA", *[kinds] * 7]}, index=GENES)
        assert align_genes(var, GENES).measured.all()


def test_genes_that_were_filtered_count_as_not_measured():
    for marks in [
        [False] * 6 + [True] * 2,
        pd.array([False] * 5 + [None] + [True] * 2, dtype="boolean"),
        pd.Categorical(["False"] * 6 + ["True"] * 2),
        [0.0] * 6 + [1.0] * 2,
    ]:
        alignment = align_genes(pd.DataFrame({"feature_is_filtered": marks}, index=GENES), GENES)
        assert alignment.measured.tolist() == [True] * 6 + [False] * 2


def test_a_column_fits_after_a_change_of_its_names():
    var = pd.DataFrame({"name": ["hg19_CD3D", "hg19_NKG7"]}, index=["ENSG01", "ENSG02"])
    found = align_genes(var, ["NKG7", "CD3D"])
    assert found.target.tolist() == [1, 0]
    assert found.report.column == "name"


def test_one_name_with_odd_characters_is_matched():
    for name in ["\ufeffCD3D", " CD3D", '"CD3D"', "CD3D\u200b"]:
        found = align_genes([name, "NKG7", "LYZ"], ["LYZ", "CD3D", "NKG7"])
        assert found.target.tolist() == [1, 2, 0]


@pytest.mark.parametrize("by_column", [True, False], ids=["column", "prefix"])
def test_genes_of_another_species_genome_match_nothing(by_column):
    model, genomes = ["CD3D", "NKG7", "HLA-A"], ["mm10"] * 3 + ["GRCh38"] * 3
    var = pd.DataFrame(index=model * 2)
    if by_column:
        var["genome"] = genomes
    else:
        var.index = [f"{genome}_{gene}" for genome, gene in zip(genomes, model * 2, strict=True)]
    found = align_genes(var, model)
    assert found.target.tolist() == [-1, -1, -1, 0, 1, 2]
    assert any("another species" in text for text in found.report.messages)
