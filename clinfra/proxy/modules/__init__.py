"""The rule modules that come with the proxy, one file each."""
