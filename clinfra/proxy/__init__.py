"""The caching reverse proxy."""
