"""The bundled immune taxonomy agrees with its published description."""

import re

BASES = [
    "B",
    "CD4+T",
    "NK",
    "Mono",
    "CD8+T",
    "Macrophage",
    "Granulocytes",
    "DC",
    "OtherT",
    "NKT",
    "MAIT",
    "ILC",
    "Treg",
    "Erythrocyte",
    "Megakaryocytes/platelets",
]
SUBTYPES = [
    "B_naive",
    "B_memory",
    "B_follicular",
    "B_precursor",
    "B_plasma(IgA)",
    "B_gc",
    "B_plasma(IgM)",
    "B_immature",
    "B_plasma(IgG)",
    "B_plasmablasts",
    "B_transitional",
    "CD4+T_naive",
    "CD4+T_CM",
    "CD4+T_Tfh",
    "CD4+T_effector",
    "CD4+T_helper(type17)",
    "CD4+T_helper(type1)",
    "CD4+T_EM",
    "CD4+T_cytotoxic",
    "NK_CD16+",
    "NK_CD16-",
    "Mono_CD14+",
    "Mono_CD16+",
    "CD8+T_EM",
    "CD8+T_naive",
    "CD8+T_effector",
    "CD8+T_CM",
    "Macrophage",
    "Macrophage_inflammatory",
    "neutrophil",
    "mast",
    "basophil",
    "eosinophil",
    "DC_cDC2",
    "DC_cDC1",
    "DC_pDC",
    "DC_cDC3",
    "OtherT_gdT",
    "OtherT_exhausted",
    "OtherT_dnT",
    "NKT_type1",
    "NKT",
    "MAIT",
    "ILC",
    "ILC_ILC3",
    "ILC_ILC2",
    "Treg",
    "Treg_naive",
    "Erythrocyte",
    "Megakaryocytes/platelets",
]


def test_it_has_the_published_types_in_order(immune):
    assert [immune.label(node) for node in immune.groups[0]] == BASES
    assert [immune.label(leaf) for leaf in immune.leaves] == SUBTYPES
    children = [11, 8, 2, 2, 4, 2, 4, 4, 3, 2, 1, 3, 2, 1, 1]
    assert [len(group) for group in immune.groups[1:]] == children
    assert (immune.max_depth, immune.n_nodes) == (2, 66)


def test_both_spellings_of_exhausted_and_the_merged_nk_resolve(immune):
    assert immune.resolve("OtherT_exhuasted") == immune.resolve("OtherT_exhausted")
    assert immune.resolve("NK_CD56+") == immune.resolve("NK_CD16-")


def test_four_base_types_have_a_leaf_with_the_same_name(immune):
    named = [
        immune.label(base)
        for base, group in zip(immune.groups[0], immune.groups[1:], strict=True)
        if len(group) > 1 and immune.label(base) in map(immune.label, group)
    ]
    assert sorted(named) == ["ILC", "Macrophage", "NKT", "Treg"]


def test_curated_ontology_ids(immune):
    for name, ontology_id in [
        ("B", "CL:0000236"),
        ("CD4+T", "CL:0000624"),
        ("NK_CD16-", "CL:0000938"),
        ("B_plasma(IgM)", "CL:0000986"),
        ("CD8+T_EM", "CL:0000913"),
        ("MAIT", "CL:0000940"),
        ("Treg_naive", "CL:0002677"),
    ]:
        assert immune.ontology_ids[immune.names[immune.resolve(name)]] == ontology_id


def test_ontology_ids_are_well_formed_and_shared_only_with_the_leaf_of_the_same_name(immune):
    paths_of = {}
    for path, ontology_id in immune.ontology_ids.items():
        assert re.fullmatch(r"CL:\d{7}", ontology_id)
        paths_of.setdefault(ontology_id, []).append(path)
    for paths in paths_of.values():
        assert len({path[-1] for path in paths}) == 1
    without = {path[-1] for path in immune.names[1:] if path not in immune.ontology_ids}
    assert without == {
        "Granulocytes",
        "OtherT",
        "DC_cDC3",
        "OtherT_dnT",
        "Megakaryocytes/platelets",
    }
