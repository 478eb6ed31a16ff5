from .formulas import inert as inert
from .graph import WITH_NEIGHBOURS as WITH_NEIGHBOURS
from .graph import lists_among as lists_among
from .result import Result as Result
from .result import manifest_json as manifest_json
from .result import read_result as read_result
from .writers import ending_of as ending_of
from .writers import export as export
