from .result import Result as Result
from .result import read_result as read_result
from .writers import ending_of as ending_of
from .writers import export as export
