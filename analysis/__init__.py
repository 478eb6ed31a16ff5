"""Tables, scores, explanations, figures and the report made from stored features."""
