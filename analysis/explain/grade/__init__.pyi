from .grade import Grading as Grading
from .grade import grades_of_images as grades_of_images
from .intervals import mean_interval as mean_interval
from .pairs import PAIR_METHODS as PAIR_METHODS
from .pairs import grade_pairs as grade_pairs
from .stored import METHODS as METHODS
from .stored import grade_of as grade_of
from .stored import pair_grade_of as pair_grade_of
