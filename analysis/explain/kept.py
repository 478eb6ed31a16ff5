"""Where a store keeps what `alike explain` and a run have drawn: one name a kind of file."""

TABLE = "tables/{key}/continuity.parquet"
PICTURE = "explanations/{key}/continuity.png"
CONFUSED = "explanations/{key}/confused.png"
EXAMPLES = "explanations/{key}/examples.png"
