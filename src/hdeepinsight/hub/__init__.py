"""Publish and download models: Hugging Face hubs, S3 buckets, folders and the bundled model."""

from hdeepinsight._model_folder import bundled_folders as bundled_folders
from hdeepinsight.hub._address import cache_folder as cache_folder
from hdeepinsight.hub._errors import ChecksumError as ChecksumError
from hdeepinsight.hub._errors import HubError as HubError
from hdeepinsight.hub._errors import OfflineError as OfflineError
from hdeepinsight.hub._publish import ModelCard as ModelCard
from hdeepinsight.hub._publish import Published as Published
from hdeepinsight.hub._publish import publish as publish
from hdeepinsight.hub._pull import SharedModel as SharedModel
from hdeepinsight.hub._pull import download as download
from hdeepinsight.hub._pull import list_models as list_models
from hdeepinsight.hub._pull import load_annotator as load_annotator
from hdeepinsight.hub._pull import load_model as load_model
from hdeepinsight.hub._pull import pull as pull
from hdeepinsight.hub._pull import resolve_model as resolve_model
