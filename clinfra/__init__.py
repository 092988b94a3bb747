"""clinfra: blob storage, image resizing and a caching reverse proxy on Twisted."""
