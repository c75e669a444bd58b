"""What a node is to get, as values: files, links, units, accounts, network. Pure."""
