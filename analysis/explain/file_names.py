"""Names of the files in which a store holds drawn explanations; loads neither plotly nor torch."""

TABLE = "tables/{key}/continuity.parquet"
GRADE = "tables/{key}/grade.parquet"
PAIR_GRADE = "tables/{key}/pair_grade.parquet"
BACKGROUND = "tables/{key}/background.parquet"
PICTURE = "explanations/{key}/continuity.png"
CONFUSED = "explanations/{key}/confused.png"
EXAMPLES = "explanations/{key}/examples.png"
DIGEST = "digest"
"""Name of the setting of a table, and of the text in a PNG file, that says of which features it
is."""
EXPLAINER = "explainer"
"""Name of the text in a PNG file of examples that says by which explainer it was drawn."""
