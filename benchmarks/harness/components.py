"""Components of an annotation: what each switches on."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Component:
    """One way to annotate.

    Parameters
    ----------
    name, title
        In the records, and in the table.
    options
        Switches of ``hdi.annotate``.
    audited
        Train on the audited reference.
    method
        What follows instead: ``"annotate"``, ``"vote"``, ``"stacas"``, ``"permuted"`` or
        ``"laplacian"``.
    """

    name: str
    title: str
    options: dict = field(default_factory=dict)
    audited: bool = False
    method: str = "annotate"


OFF = {"adapt": "off", "refine": "off"}
COMPONENTS = (
    Component("none", "zero-shot", OFF),
    Component("adapt", "adapt", {"adapt": "auto", "refine": "off"}),
    Component("refine", "refine", {"adapt": "off", "refine": "auto"}),
    Component("refine_permuted", "refine, permuted graph (control)", OFF, method="permuted"),
    Component("refine_laplacian", "refine by Laplacian, λ = 1", OFF, method="laplacian"),
    Component("vote", "vote of clusters", OFF, method="vote"),
    Component("stacas", "correct by STACAS", OFF, method="stacas"),
    Component("audit", "audited reference", OFF, audited=True),
    Component("adapt_refine", "adapt and refine (default)", {"adapt": "auto", "refine": "auto"}),
    Component(
        "adapt_unguarded",
        "adapt, whatever the label-free check says",
        {"adapt": "on", "refine": "off"},
    ),
    Component(
        "all",
        "audit, adapt, refine",
        {"adapt": "auto", "refine": "auto"},
        audited=True,
    ),
)
