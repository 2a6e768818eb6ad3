"""What strangers can hand to the package, one function of bytes for each."""

from collections.abc import Callable

from surfaces.counts import h5ad_bytes, h5ad_structure, zarr_structure
from surfaces.model_file import model_description, model_manifest, model_pt
from surfaces.shared import hub_address, hub_answers, hub_card, hub_checksums, hub_files
from surfaces.taxonomy import taxonomy_json, taxonomy_obo

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        taxonomy_json,
        taxonomy_obo,
        h5ad_bytes,
        h5ad_structure,
        zarr_structure,
        model_pt,
        model_manifest,
        model_description,
        hub_address,
        hub_checksums,
        hub_files,
        hub_answers,
        hub_card,
    )
}
