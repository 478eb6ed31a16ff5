from .grade import Grading as Grading
from .stored import METHODS as METHODS
from .stored import grade_of as grade_of
