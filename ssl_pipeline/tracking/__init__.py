"""MLflow, and nowhere else: runs (`runs.py`), the model registry (`registry.py`), which version serves (`aliases.py`)."""

from ssl_pipeline.tracking.aliases import Changed as Changed
from ssl_pipeline.tracking.aliases import Move as Move
from ssl_pipeline.tracking.aliases import challenge as challenge
from ssl_pipeline.tracking.aliases import history as history
from ssl_pipeline.tracking.aliases import promote as promote
from ssl_pipeline.tracking.aliases import rollback as rollback
from ssl_pipeline.tracking.aliases import taken_back as taken_back
from ssl_pipeline.tracking.model import recorded as recorded
from ssl_pipeline.tracking.registry import Version as Version
from ssl_pipeline.tracking.registry import aliases as aliases
from ssl_pipeline.tracking.registry import champion as champion
from ssl_pipeline.tracking.registry import downloaded as downloaded
from ssl_pipeline.tracking.registry import load as load
from ssl_pipeline.tracking.registry import register as register
from ssl_pipeline.tracking.registry import versions as versions
from ssl_pipeline.tracking.runs import Tracker as Tracker
