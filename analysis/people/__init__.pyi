from .answers import HumanAnswers as HumanAnswers
from .answers import read_answers as read_answers
from .correlation import agreement as agreement
from .correlation import rho_a as rho_a
from .scores import MOST as MOST
from .scores import human_scores as human_scores
