"""Neighbours of any image: FAISS indexes chosen by measuring, and queries against them."""
