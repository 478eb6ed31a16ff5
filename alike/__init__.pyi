from .analysis.explain.explain import EXPLAINERS as EXPLAINERS
from .analysis.scores.table import SCORES as SCORES
from .api import analyse as analyse
from .api import build_index as build_index
from .api import compare as compare
from .api import connect as connect
from .api import explain as explain
from .api import export as export
from .api import extract_images as extract_images
from .api import neighbours as neighbours
from .api import open_store as open_store
from .api import probe_background as probe_background
from .api import rank_networks as rank_networks
from .api import retrain as retrain
from .api import run_pipeline as run_pipeline
from .api import write_report as write_report
from .extract.measures.measures import MEASURES as MEASURES
from .extract.store.store import Store as Store
from .train.losses import LOSSES as LOSSES

__version__: str
