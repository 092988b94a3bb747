"""Several processes behind one set of listening sockets, changed without a gap."""
