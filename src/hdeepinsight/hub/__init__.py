"""Publish and download models: Hugging Face hubs, S3 buckets, folders and the bundled model."""

from hdeepinsight.hub._address import bundled_folder, bundled_folders, cache_folder
from hdeepinsight.hub._errors import ChecksumError, HubError, OfflineError
from hdeepinsight.hub._publish import ModelCard, Published, publish
from hdeepinsight.hub._pull import (
    SharedModel,
    download,
    list_models,
    load_annotator,
    load_model,
    pull,
    resolve_model,
)

__all__ = [
    "ChecksumError",
    "HubError",
    "ModelCard",
    "OfflineError",
    "Published",
    "SharedModel",
    "bundled_folder",
    "bundled_folders",
    "cache_folder",
    "download",
    "list_models",
    "load_annotator",
    "load_model",
    "publish",
    "pull",
    "resolve_model",
]
