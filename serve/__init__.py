"""The page and HTTP API over a feature store."""
