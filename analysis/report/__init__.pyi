from .lookup import main_measure as main_measure
from .report import write_report as write_report
from .thumbnails import Pictures as Pictures
