"""Labels that mean "no label", and labels that look alike."""

import warnings

import numpy as np
import pandas as pd
import pytest

from hdeepinsight.taxonomy import (
    MISSING_LABELS,
    LabelWarning,
    Taxonomy,
    check_labels,
    find_unlabeled,
)

WORDS = [
    "nan", "NA", "N/A", "None", "null", "unknown", "UNKNOWN", " Unknown", "Unassigned",
    "Unlabeled", "undefined", "Heterogeneous", "not available", "-", "", " nan\t", "\u00a0NA",
    "not_assigned", "Not-Annotated", "Unknown cells", "unknown cell type", "Unknown_2", "unk",
    "UNK2", "n.d.", "Not_Classified", "(none)", "[Unassigned]", "__unknown__", "unknown?",
]  # fmt: skip


def warned(labels, **options):
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        check_labels(labels, "obs['type']", **options)
    assert all(issubclass(w.category, LabelWarning) for w in raised)
    assert len(raised) <= 1
    return str(raised[0].message) if raised else ""


def test_words_that_mean_no_label_are_found():
    for word in WORDS:
        assert find_unlabeled(["CD4", word]).tolist() == [False, True]
        tree = Taxonomy.from_nested({"T": ["CD4", "CD8"]})
        assert tree.encode(["CD4", word]).tolist() == [2, 0]
        frame = pd.DataFrame({"lineage": ["T", "T", word], "type": ["CD4", word, word]})
        assert tree.encode_levels(frame).tolist() == [2, 1, 0]
        assert Taxonomy.from_obs(frame, ["lineage", "type"]).names == ((), ("T",), ("T", "CD4"))


def test_words_for_no_label_are_in_folded_form():
    assert {word.strip().casefold() for word in MISSING_LABELS} == MISSING_LABELS


def test_missing_values_are_always_unlabelled():
    for missing in [None, np.nan, pd.NA, pd.NaT]:
        for unlabeled in ("Unknown", None, ()):
            assert find_unlabeled(["CD4", missing], unlabeled).tolist() == [False, True]


def test_every_kind_of_column_is_read():
    for make in [
        list,
        np.asarray,
        pd.Series,
        pd.Categorical,
        lambda x: pd.Series(x, dtype="category"),
        lambda x: pd.Categorical([label.encode() for label in x]),  # as in files of other languages
    ]:
        labels = make(["CD4", "doublet", "NA"])
        assert find_unlabeled(labels, ["doublet"]).tolist() == [False, True, True]
        assert find_unlabeled(labels, None).tolist() == [False, False, False]


def test_numbers_are_labels_except_missing_ones():
    assert find_unlabeled([1.0, np.nan]).tolist() == [False, True]


def test_words_are_types_where_the_user_says_so():
    column = ["NA", "CD4", None]
    frame = pd.DataFrame({"type": column})
    kept = Taxonomy.from_obs(frame, "type", unlabeled=None)
    assert kept.names == ((), ("CD4",), ("NA",))
    assert kept.encode(column).tolist() == [2, 1, 0]  # it is a name of this taxonomy
    assert kept.encode_levels(frame).tolist() == [2, 1, 0]
    assert kept.encode(column, unlabeled="NA").tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="'NA'"):
        Taxonomy.from_nested(["CD4"]).encode(column, unlabeled=None)


def test_words_taken_for_no_label_are_named_with_counts():
    said = warned(["CD4", "NA", "NA", " nan", "Unknown", None])
    assert said.startswith("obs['type']: 'NA' (2 cells) and ' nan' (1 cell) are treated as")
    assert "Unknown" not in said  # the declared category
    assert "CD4" not in said


def test_declared_labels_and_missing_values_raise_no_warning():
    assert warned(["CD4", "NA", None, np.nan], unlabeled=["NA"]) == ""
    assert warned(["CD4", "NA", "nan"], unlabeled=None) == ""
    unused = pd.Categorical(["CD4"], categories=["CD4", "NA", "cd4"])
    assert warned(unused) == ""


def test_labels_that_look_alike_are_named_in_pairs():
    for other, shown in [
        ("B ", "'B '"),
        ("b", "'b'"),
        ("\u200bB", r"'\u200bB'"),
        ("B\u00a0", r"'B\xa0'"),
        ("В", r"'\u0412'"),
    ]:
        said = warned(["B"] * 3 + [other] * 2 + ["T"])
        assert f"'B' (3 cells) and {shown} (2 cells) differ only in" in said
        assert "'T'" not in said


def test_labels_of_another_unicode_form_are_shown_apart():
    composed, decomposed = "na\u00efve", "nai\u0308ve"
    said = warned([composed, composed, decomposed])
    assert r"'na\xefve' (2 cells) and 'nai\u0308ve' (1 cell)" in said


def test_many_pairs_are_counted():
    said = warned([label for i in range(30) for label in (f"type {i}", f"Type {i}")])
    assert "and 10 more" in said


def test_numbers_are_refused_with_advice_that_keeps_gaps():
    for values in [[1, 2], [1.0, np.nan], [True, False]]:
        frame = pd.DataFrame({"cluster": values})
        with pytest.raises(TypeError, match="na_action") as raised:
            Taxonomy.from_obs(frame, "cluster")
        assert "astype(str)" not in str(raised.value)
        converted = frame["cluster"].map(str, na_action="ignore")
        assert find_unlabeled(converted).tolist() == frame["cluster"].isna().tolist()
        assert "nan" not in Taxonomy.from_obs(converted.to_frame(), "cluster").labels
