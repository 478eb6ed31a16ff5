"""Retraining of a network with a consistency loss."""
