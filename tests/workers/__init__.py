"""Several processes behind one set of sockets."""
