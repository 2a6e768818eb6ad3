"""Every method of the benchmark: what it is, where its code is, and which environment it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["ours", "control", "peer"]

#: The environment of the package itself.
MAIN = "main"

_SKLEARN = ("scikit-learn", "scipy", "numpy")
_TORCH = ("torch", "numpy")
_OURS = ("hdeepinsight", "scvi-tools", "torch", "anndata")


@dataclass(frozen=True)
class Spec:
    """One method.

    Parameters
    ----------
    name
        Its name in the records.
    title
        Its name in the tables.
    kind
        ``"ours"``, ``"control"`` or ``"peer"``.
    target
        ``module:Class`` in ``benchmarks/methods``.
    options
        Keyword arguments of the class.
    environment
        ``"main"``, or the name of a file in ``benchmarks/environments``.
    packages
        Distributions whose versions are recorded.
    """

    name: str
    title: str
    kind: Kind
    target: str
    options: dict = field(default_factory=dict)
    environment: str = MAIN
    packages: tuple[str, ...] = ()


def _ours(name: str, title: str, kind: Kind = "control") -> Spec:
    return Spec(name, title, kind, "ours:SCHDeepInsight", {"variant": name}, packages=_OURS)


_CELLTYPIST = ("celltypist", "scikit-learn", "scanpy")

SPECS: tuple[Spec, ...] = (
    _ours("schdeepinsight", "SCHDeepInsight", "ours"),
    Spec(
        "schdeepinsight_mapped",
        "SCHDeepInsight, adapted and refined",
        "ours",
        "ours:Adapted",
        packages=_OURS,
    ),
    Spec(
        "profiles",
        "profiles of the types, no network",
        "control",
        "ours:Profiles",
        packages=_OURS,
    ),
    # the transformer on gene tokens, and what its parts are worth
    Spec("sclabelnet", "SCLabelNet", "ours", "ours:SCLabelNet", packages=_OURS),
    Spec(
        "sclabelnet_pretrained",
        "SCLabelNet, pretrained on the reference",
        "ours",
        "ours:SCLabelNet",
        {"pretrain": 5},
        packages=_OURS,
    ),
    # the same model with one thing changed
    _ours("members", "members by the size of the reference, five of up to 204 cells"),
    _ours("network_alone", "network alone, not combined with profiles"),
    _ours("random_layout", "random pixel layout"),
    _ours("adaptive_weights", "adaptive loss weights (published)"),
    _ours("focal", "focal loss (γ = 2, published)"),
    _ours(
        "hierarchical_cross_entropy",
        "hierarchical cross-entropy (softmax over leaves, summed up the tree)",
    ),
    _ours("no_masking", "no gene masking"),
    _ours("no_thinning", "no count thinning"),
    _ours("no_class_weights", "no class weights"),
    _ours("flat_head", "flat head (softmax over leaves)"),
    _ours("mlp_backbone", "MLP in place of the image network, trained alike"),
    _ours("no_backbone", "hierarchical logistic regression (no backbone)"),
    _ours("with_wide_path", "with a linear path beside the image"),
    _ours("published_reduction", "published loss reduction"),
    _ours("greedy_decode", "greedy decode"),
    # models that do without ours, on the same genes
    Spec("majority", "majority class", "control", "simple:Majority", packages=("numpy",)),
    Spec(
        "logistic_regression",
        "logistic regression",
        "control",
        "linear:LogisticRegression",
        packages=_SKLEARN,
    ),
    Spec(
        "logistic_regression_scaled",
        "logistic regression, scaled genes",
        "control",
        "linear:LogisticRegression",
        {"scale": True},
        packages=_SKLEARN,
    ),
    Spec(
        "logistic_regression_pca",
        "logistic regression on PCA",
        "control",
        "linear:LogisticRegression",
        {"scale": True, "n_components": 50},
        packages=_SKLEARN,
    ),
    Spec(
        "logistic_regression_balanced",
        "logistic regression, balanced classes",
        "control",
        "linear:LogisticRegression",
        {"balanced": True},
        packages=_SKLEARN,
    ),
    Spec(
        "logistic_regression_balanced_tuned",
        "logistic regression, balanced classes, penalty tuned",
        "control",
        "linear:LogisticRegression",
        {"balanced": True, "tuned": True},
        packages=_SKLEARN,
    ),
    Spec(
        "class_means",
        "logistic regression on one averaged cell per class",
        "control",
        "linear:LogisticRegression",
        {"averages": 1},
        packages=_SKLEARN,
    ),
    Spec(
        "pseudobulks",
        "logistic regression on ten pseudobulks per class",
        "control",
        "linear:LogisticRegression",
        {"averages": 10},
        packages=_SKLEARN,
    ),
    Spec(
        "logistic_regression_scaled_balanced",
        "logistic regression, scaled genes, balanced classes",
        "control",
        "linear:LogisticRegression",
        {"scale": True, "balanced": True},
        packages=_SKLEARN,
    ),
    Spec("linear_svm", "linear SVM", "control", "linear:LinearSVM", packages=_SKLEARN),
    Spec("mlp", "MLP", "control", "mlp:MLP", packages=_TORCH),
    Spec(
        "mlp_masked", "MLP, gene masking", "control", "mlp:MLP", {"masking": True}, packages=_TORCH
    ),
    # peers, each with the settings and genes that its authors recommend
    Spec("knn_pca", "kNN on PCA", "peer", "knn:PCANeighbors", packages=_SKLEARN),
    Spec(
        "knn_harmony",
        "kNN on Harmony",
        "peer",
        "knn:HarmonyNeighbors",
        environment="harmony",
        packages=("harmonypy", *_SKLEARN),
    ),
    Spec(
        "celltypist",
        "CellTypist",
        "peer",
        "celltypist_peer:CellTypist",
        environment="celltypist",
        packages=_CELLTYPIST,
    ),
    Spec(
        "celltypist_voting",
        "CellTypist, majority voting",
        "peer",
        "celltypist_peer:CellTypist",
        {"majority_voting": True},
        environment="celltypist",
        packages=_CELLTYPIST,
    ),
    Spec(
        "singler",
        "SingleR (Python), AUC markers",
        "peer",
        "singler_peer:SingleR",
        environment="singler",
        packages=("singler", "scranpy"),
    ),
    Spec(
        "singler_cohens_d",
        "SingleR (Python), Cohen's d markers",
        "peer",
        "singler_peer:SingleR",
        {"markers": "cohens_d"},
        environment="singler",
        packages=("singler", "scranpy"),
    ),
    Spec(
        "schpl",
        "scHPL",
        "peer",
        "schpl_peer:ScHPL",
        environment="schpl",
        packages=("scHPL", "scikit-learn"),
    ),
    Spec(
        "scanvi",
        "scANVI + scArches",
        "peer",
        "scanvi_peer:ScANVI",
        packages=("scvi-tools", "torch"),
    ),
    Spec(
        "scpoli",
        "scPoli",
        "peer",
        "scpoli_peer:ScPoli",
        environment="scpoli",
        packages=("scarches", "scvi-tools", "torch"),
    ),
    Spec(
        "popv",
        "popV consensus",
        "peer",
        "popv_peer:PopV",
        environment="popv",
        packages=("popv", "scvi-tools", "celltypist", "tensorflow"),
    ),
)

#: Names that stand for several methods on the command line.
GROUPS = {
    "all": tuple(spec.name for spec in SPECS),
    "ours": tuple(spec.name for spec in SPECS if spec.kind == "ours"),
    "controls": tuple(spec.name for spec in SPECS if spec.kind == "control"),
    "variants": tuple(s.name for s in SPECS if s.target.startswith("ours:") and s.kind != "ours"),
    "peers": tuple(spec.name for spec in SPECS if spec.kind == "peer"),
    "quick": (
        "majority",
        "logistic_regression",
        "logistic_regression_scaled",
        "logistic_regression_pca",
        "logistic_regression_balanced",
        "logistic_regression_balanced_tuned",
        "logistic_regression_scaled_balanced",
        "linear_svm",
        "mlp",
        "mlp_masked",
        "knn_pca",
        "knn_harmony",
        "celltypist",
        "celltypist_voting",
        "singler",
        "singler_cohens_d",
        "schpl",
    ),
}


def resolve(names: list[str]) -> list[Spec]:
    """Specs of methods and groups, in the order of the registry, each once."""
    by_name = {spec.name: spec for spec in SPECS}
    wanted = {member for name in names for member in GROUPS.get(name, (name,))}
    unknown = sorted(wanted - set(by_name))
    if unknown:
        raise ValueError(
            f"there is no method {unknown}. Methods are {sorted(by_name)}, groups {sorted(GROUPS)}."
            " Name some of those after --methods."
        )
    return [spec for spec in SPECS if spec.name in wanted]
