"""MLflow, and nowhere else: runs (`runs.py`), the model registry, aliases and promotion (`registry.py`)."""

from ssl_pipeline.tracking.model import recorded as recorded
from ssl_pipeline.tracking.registry import Version as Version
from ssl_pipeline.tracking.registry import champion as champion
from ssl_pipeline.tracking.registry import downloaded as downloaded
from ssl_pipeline.tracking.registry import load as load
from ssl_pipeline.tracking.registry import promote as promote
from ssl_pipeline.tracking.registry import register as register
from ssl_pipeline.tracking.registry import versions as versions
from ssl_pipeline.tracking.runs import Tracker as Tracker
