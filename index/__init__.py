"""FAISS indexes over the feature store: the neighbours of any image."""
