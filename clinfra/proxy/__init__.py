"""The caching reverse proxy: rule modules, cache, origins."""
