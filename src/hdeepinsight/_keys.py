"""Every name that we read from or write to an AnnData or a registry, once."""

from typing import Final, NamedTuple


class LabelColumns(NamedTuple):
    """Names in a table of labels beside those of the taxonomy's levels.

    The label where a cell's path stops is ``stop_label``, not ``cell_type``, because many
    taxonomies have a level of that name.
    """

    STOP: str = "stop_label"
    ROOT: str = "Unknown"


class AddedKeys(NamedTuple):
    """What `Annotation.to_adata` adds after its ``key_added``.

    With ``key_added="hdi"`` the confidence lands in ``obs["hdi_confidence"]``, that of the label at
    a level in ``obs["hdi_<level>_confidence"]``.
    """

    CONFIDENCE: str = "confidence"
    RUNNER_UP: str = "runner_up"
    MARGIN: str = "margin"
    DISAGREEMENT: str = "disagreement"
    STOP_DEPTH: str = "stop_depth"
    STOP_REASON: str = "stop_reason"
    LEAF: str = "leaf"
    PROBABILITIES: str = "probabilities"


class AuditKeys(NamedTuple):
    """What `LabelAudit.to_adata` adds after its ``key_added``; columns of its table of cells."""

    GIVEN: str = "given"
    SUGGESTED: str = "suggested"
    PROBABILITY: str = "probability"
    MARGIN: str = "margin"
    DIVERGENCE: str = "divergence"
    JUDGED: str = "judged"
    SUSPICIOUS: str = "suspicious"
    WEIGHT: str = "weight"


class FieldKeys(NamedTuple):
    """Names of our fields in the registry of scvi-tools' data manager, beside its own ``X``."""

    LABELS: str = "labels"
    BATCH: str = "batch"
    PROTEINS: str = "proteins"


class SaveKeys(NamedTuple):
    """Entries of a model file, as scvi-tools calls them."""

    WEIGHTS: str = "model_state_dict"
    GENES: str = "var_names"
    ATTRIBUTES: str = "attr_dict"


LABEL_COLUMNS: Final = LabelColumns()
ADDED_KEYS: Final = AddedKeys()
AUDIT_KEYS: Final = AuditKeys()
FIELD_KEYS: Final = FieldKeys()
SAVE_KEYS: Final = SaveKeys()
#: In ``uns`` of what the hub publishes beside a model: features and labels, but no counts.
REFERENCE_BUNDLE_KEY: Final = "hdeepinsight_reference"
#: Cell Ontology ids and their absence, as the CELLxGENE schema calls them.
ONTOLOGY_KEY: Final = "cell_type_ontology_term_id"
UNKNOWN_TERM: Final = "unknown"
ONTOLOGY_NAME: Final = "cell_type_ontology_term"
