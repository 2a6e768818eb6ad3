"""Share models: a Hugging Face hub, an S3 bucket or a folder; what is shared is only data."""

from hdeepinsight.hub._bundled import bundled_folder as bundled_folder
from hdeepinsight.hub._bundled import bundled_folders as bundled_folders
from hdeepinsight.hub._card import ModelCard
from hdeepinsight.hub._errors import ChecksumError, HubError, OfflineError
from hdeepinsight.hub._list import list_models
from hdeepinsight.hub._publish import Published, publish
from hdeepinsight.hub._pull import SharedModel, download, pull
from hdeepinsight.hub._reference import ReferenceBundle
from hdeepinsight.hub._resolve import load_model as load_model
from hdeepinsight.hub._resolve import resolve_model

__all__ = [
    "ChecksumError",
    "HubError",
    "ModelCard",
    "OfflineError",
    "Published",
    "ReferenceBundle",
    "SharedModel",
    "download",
    "list_models",
    "publish",
    "pull",
    "resolve_model",
]
