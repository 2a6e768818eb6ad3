"""Define the keys that are read from or written to AnnData objects and registries."""

from typing import Final, NamedTuple


class LabelColumns(NamedTuple):
    """Names in a table of labels besides the levels of the taxonomy.

    The assigned label is called ``stop_label`` instead of ``cell_type``, because many taxonomies
    have a level of that name.
    """

    STOP: str = "stop_label"
    ROOT: str = "Unknown"


class AddedKeys(NamedTuple):
    """Keys that `Annotation.to_adata` adds, without the prefix ``key_added``.

    With ``key_added="hdi"``, the confidence is stored in ``obs["hdi_confidence"]``, and that of
    the label at a level in ``obs["hdi_<level>_confidence"]``.
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
    """Columns of a label audit, which `LabelAudit.to_adata` adds with the prefix ``key_added``."""

    GIVEN: str = "given"
    SUGGESTED: str = "suggested"
    PROBABILITY: str = "probability"
    MARGIN: str = "margin"
    DIVERGENCE: str = "divergence"
    JUDGED: str = "judged"
    SUSPICIOUS: str = "suspicious"
    WEIGHT: str = "weight"


class FieldKeys(NamedTuple):
    """Names of fields in the registry of scvi-tools' data manager, besides ``X``."""

    PROTEINS: str = "proteins"


class SaveKeys(NamedTuple):
    """Keys of a model file, as in scvi-tools."""

    WEIGHTS: str = "model_state_dict"
    GENES: str = "var_names"
    ATTRIBUTES: str = "attr_dict"


LABEL_COLUMNS: Final = LabelColumns()
ADDED_KEYS: Final = AddedKeys()
AUDIT_KEYS: Final = AuditKeys()
FIELD_KEYS: Final = FieldKeys()
SAVE_KEYS: Final = SaveKeys()
#: Key in ``uns`` of the published latent features and labels of reference cells.
REFERENCE_BUNDLE_KEY: Final = "hdeepinsight_reference"
#: Cell Ontology ids, and the value for missing ids, in the CELLxGENE schema.
ONTOLOGY_KEY: Final = "cell_type_ontology_term_id"
UNKNOWN_TERM: Final = "unknown"
ONTOLOGY_NAME: Final = "cell_type_ontology_term"
