"""A group of features, carried out of a store and into one, by format."""
