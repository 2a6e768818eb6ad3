"""Which protein is meant, and which genes encode it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache

__all__ = ["clean_protein_name", "match_proteins", "protein_genes", "protein_key"]

#: What vendors and pipelines put around the name of a protein.
_PREFIX = re.compile(
    r"(?:(?:anti|adt|ab|prot|protein|abseq|humsrt|hums|hu|ms)[-_. ]+(?:(?:human|hu)[-_. ]+)?"
    r"|[ABCD]0\d{3}[-_. ]+)",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"[-_. ]+(?:total[-_ ]?(?:seq)?[-_ ]?[ABCD]?|[ABCD]?0\d{3}|adt|prot|protein|abseq|pabo|ab"
    r"|antibody)$",
    re.IGNORECASE,
)
#: Where the name ends and clone, gene or barcode begin.
_END = re.compile(r"[_|:(\[\s]")
_COPY = re.compile(r"[-_.]\d$")
_PLAIN_CD = re.compile(r"CD\d+[A-Z]{0,2}")

#: Protein (and other names after ``=``): genes, the one that stands for it first. Proteins whose
#: gene has their own name need no entry. Symbols as in HGNC.
_TABLE = """
CD3: CD3D CD3E CD3G
CD8: CD8A CD8B
CD10: MME
CD11A=LFA1: ITGAL
CD11B=MAC1: ITGAM
CD11C: ITGAX
CD13: ANPEP
CD15=SSEA1: FUT4
CD16=CD16A: FCGR3A FCGR3B
CD18: ITGB2
CD20: MS4A1
CD21: CR2
CD23: FCER2
CD25: IL2RA
CD26: DPP4
CD29: ITGB1
CD30: TNFRSF8
CD31: PECAM1
CD32: FCGR2A FCGR2B
CD35: CR1
CD39: ENTPD1
CD41: ITGA2B
CD42B: GP1BA
CD43: SPN
CD45: PTPRC
CD45RA: PTPRC
CD45RB: PTPRC
CD45RO: PTPRC
CD48: CD48
CD49A: ITGA1
CD49B: ITGA2
CD49C: ITGA3
CD49D: ITGA4
CD49E: ITGA5
CD49F: ITGA6
CD50: ICAM3
CD51: ITGAV
CD54: ICAM1
CD56=NCAM: NCAM1
CD57=HNK1: B3GAT1
CD58=LFA3: CD58
CD61: ITGB3
CD62E: SELE
CD62L=LSELECTIN: SELL
CD62P: SELP
CD64: FCGR1A
CD66B: CEACAM8
CD66ACE: CEACAM1
CD70: CD70
CD71: TFRC
CD73: NT5E
CD85J: LILRB1
CD87: PLAUR
CD88: C5AR1
CD90=THY1: THY1
CD94: KLRD1
CD95=FAS: FAS
CD98: SLC3A2
CD102: ICAM2
CD103: ITGAE
CD104: ITGB4
CD105: ENG
CD106: VCAM1
CD107A=LAMP1: LAMP1
CD110: MPL
CD112: NECTIN2
CD115: CSF1R
CD116: CSF2RA
CD117=CKIT: KIT
CD119: IFNGR1
CD122: IL2RB
CD123: IL3RA
CD124: IL4R
CD126: IL6R
CD127=IL7RA: IL7R
CD129: IL9R
CD130: IL6ST
CD131: CSF2RB
CD132: IL2RG
CD133: PROM1
CD134=OX40: TNFRSF4
CD135: FLT3
CD137=41BB: TNFRSF9
CD138: SDC1
CD140A: PDGFRA
CD140B: PDGFRB
CD141=BDCA3: THBD
CD142: F3
CD144: CDH5
CD146: MCAM
CD150=SLAM: SLAMF1
CD152: CTLA4
CD154=CD40L: CD40LG
CD155: PVR
CD156C: ADAM10
CD158=CD158A: KIR2DL1
CD158B: KIR2DL3
CD158E1: KIR3DL1
CD158F: KIR2DL5A
CD159A=NKG2A: KLRC1
CD159C=NKG2C: KLRC2
CD161: KLRB1
CD162: SELPLG
CD165: CD165
CD169: SIGLEC1
CD170: SIGLEC5
CD172A=SIRPA: SIRPA
CD178=FASL: FASLG
CD179A: VPREB1
CD179B: IGLL1
CD183: CXCR3
CD184: CXCR4
CD185: CXCR5
CD186: CXCR6
CD192: CCR2
CD193: CCR3
CD194: CCR4
CD195: CCR5
CD196: CCR6
CD197: CCR7
CD198: CCR8
CD199: CCR9
CD201: PROCR
CD202B: TEK
CD203C: ENPP3
CD204: MSR1
CD205: LY75
CD206: MRC1
CD207: CD207
CD209=DCSIGN: CD209
CD210: IL10RA
CD218A: IL18R1
CD223: LAG3
CD224: GGT1
CD226=DNAM1: CD226
CD235A: GYPA
CD235AB: GYPA GYPB
CD243: ABCB1
CD244=2B4: CD244
CD252=OX40L: TNFSF4
CD253=TRAIL: TNFSF10
CD254=RANKL: TNFSF11
CD257=BAFF: TNFSF13B
CD258=LIGHT: TNFSF14
CD262: TNFRSF10B
CD267=TACI: TNFRSF13B
CD268=BAFFR: TNFRSF13C
CD269=BCMA: TNFRSF17
CD270=HVEM: TNFRSF14
CD271=NGFR: NGFR
CD272: BTLA
CD273=PDL2: PDCD1LG2
CD274=PDL1=B7H1: CD274
CD275=ICOSL: ICOSLG
CD276=B7H3: CD276
CD278: ICOS
CD279=PD1: PDCD1
CD294=CRTH2: PTGDR2
CD301=CLEC10A: CLEC10A
CD303=BDCA2: CLEC4C
CD304=NEUROPILIN1=BDCA4: NRP1
CD305=LAIR1: LAIR1
CD309: KDR
CD314=NKG2D: KLRK1
CD317=TETHERIN: BST2
CD319=CRACC: SLAMF7
CD324=ECADHERIN: CDH1
CD326=EPCAM: EPCAM
CD328: SIGLEC7
CD335=NKP46: NCR1
CD336=NKP44: NCR2
CD337=NKP30: NCR3
CD338: ABCG2
CD340=HER2: ERBB2
CD352: SLAMF6
CD354=TREM1: TREM1
CD357=GITR: TNFRSF18
CD360=IL21R: IL21R
CD366=TIM3: HAVCR2
CD370=CLEC9A: CLEC9A
CD1C=BDCA1: CD1C
B7H4: VTCN1
C5L2: C5AR2
FCERIA=FCER1=FCERI: FCER1A
GPR56: ADGRG1
HLAABC=HLAA2: HLA-A HLA-B HLA-C
HLADR: HLA-DRA HLA-DRB1
HLADRDPDQ: HLA-DRA HLA-DPA1 HLA-DQA1
HLADQ: HLA-DQA1 HLA-DQB1
HLAE: HLA-E
HLAF: HLA-F
IGA: IGHA1 IGHA2
IGD: IGHD
IGE: IGHE
IGGFC: IGHG1 IGHG2 IGHG3
IGM: IGHM
IGLIGHTCHAINKAPPA=IGKAPPA: IGKC
IGLIGHTCHAINLAMBDA=IGLAMBDA: IGLC2 IGLC3
INTEGRINB7: ITGB7
KLRG1=MAFA: KLRG1
LOX1: OLR1
NKP80: KLRF1
PODOPLANIN: PDPN
TCRAB=TCRALPHABETA: TRAC TRBC1 TRBC2
TCRGD=TCRGAMMADELTA=TCRYD: TRDC TRGC1 TRGC2
TCRVA72: TRAV1-2
TCRVA24JA18: TRAV10
TCRVD2: TRDV2
TCRVG9: TRGV9
TIGIT: TIGIT
XCR1: XCR1
"""


def clean_protein_name(name: str) -> str:
    """Name of a protein without what vendors and pipelines put around it.

    Clones and copies of a known protein lose their mark (``CD4-1``, ``CD45RA_HI100``).

    Parameters
    ----------
    name
        Name of a feature.

    Returns
    -------
    The name; unchanged if nothing would be left.

    Examples
    --------
    >>> from hdeepinsight.data import clean_protein_name
    >>> [clean_protein_name(name) for name in ("CD3_TotalSeqB", "ADT_anti-human CD56", "HLA-DR")]
    ['CD3', 'CD56', 'HLA-DR']
    >>> clean_protein_name("CD4:SK3|CD4|AHS0032|pAbO")
    'CD4'
    """
    cleaned, before = name.strip(), ""
    while cleaned and cleaned != before:
        before = cleaned
        cleaned = _PREFIX.sub("", cleaned, count=1) if _PREFIX.match(cleaned) else cleaned
        cleaned = _SUFFIX.sub("", cleaned)
    for shorter in (_END.split(cleaned, maxsplit=1)[0], _COPY.sub("", cleaned)):
        if _is_known(shorter):
            return _COPY.sub("", shorter) if _is_known(_COPY.sub("", shorter)) else shorter
    return cleaned or name


def protein_key(name: str) -> str:
    """Spelling under which a protein is matched: one for all of its names.

    Examples
    --------
    >>> from hdeepinsight.data import protein_key
    >>> {protein_key(name) for name in ("CD279", "anti-PD-1", "PDCD1", "PD1_TotalSeqC")}
    {'CD279'}
    """
    cleaned = clean_protein_name(name)
    key = _bare(cleaned) or cleaned
    return _names().get(key, key)


def protein_genes(name: str, genes: Collection[str]) -> tuple[str, ...]:
    """Those of the given genes that encode a protein.

    Parameters
    ----------
    name
        Name of the protein.
    genes
        Genes that may be named, such as those of a layout.

    Returns
    -------
    Genes, the one that stands for the protein first; empty where none is among ``genes``.

    Examples
    --------
    >>> from hdeepinsight.data import protein_genes
    >>> genes = ["CD3E", "CD3D", "FCGR3A", "PTPRC", "CD14"]
    >>> [protein_genes(name, genes) for name in ("CD3", "CD16", "CD45RA", "CD14", "IgG1")]
    [('CD3D', 'CD3E'), ('FCGR3A',), ('PTPRC',), ('CD14',), ()]
    """
    spelled = {_bare(gene): gene for gene in genes}
    key = protein_key(name)
    encoding = map(_bare, _genes().get(key, (key,)))
    return tuple(spelled[gene] for gene in encoding if gene in spelled)


def match_proteins(names: Iterable[str], proteins: Iterable[str]) -> list[int]:
    """Position among ``proteins`` of every name, by :func:`protein_key`; -1 where there is none."""
    position = {protein_key(protein): i for i, protein in enumerate(proteins)}
    return [position.get(protein_key(name), -1) for name in names]


def _bare(name: str) -> str:
    return re.sub(r"[^0-9A-Z]", "", name.upper())


def _is_known(name: str) -> bool:
    key = _bare(name)
    return key in _names() or _PLAIN_CD.fullmatch(key) is not None


@cache
def _genes() -> Mapping[str, tuple[str, ...]]:
    """Genes of every protein of the table, by its first name."""
    rows = (line.split(":") for line in _TABLE.strip().splitlines())
    return {names.split("=")[0]: tuple(genes.split()) for names, genes in rows}


@cache
def _names() -> Mapping[str, str]:
    """First name of every other name, and of every gene that stands for a single protein."""
    by_gene: dict[str, list[str]] = {}
    for protein, genes in _genes().items():
        by_gene.setdefault(_bare(genes[0]), []).append(protein)
    # PTPRC makes CD45, CD45RA, CD45RB and CD45RO: the gene's name says none of them but CD45.
    names = {gene: proteins[0] for gene, proteins in by_gene.items()}
    for line in _TABLE.strip().splitlines():
        first, *others = line.split(":")[0].split("=")
        names |= dict.fromkeys((first, *others), first)
    return names
