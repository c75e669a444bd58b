"""What a cluster is, as values and files; nothing here runs anything."""
