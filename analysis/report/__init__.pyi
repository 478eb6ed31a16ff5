from .lookup import main_measure as main_measure
from .lookup import score_of as score_of
from .lookup import worst_class as worst_class
from .parts import data_uri as data_uri
from .report import write_report as write_report
from .thumbnails import Pictures as Pictures
from .thumbnails import Thumbnail as Thumbnail
from .thumbnails import thumbnail as thumbnail
