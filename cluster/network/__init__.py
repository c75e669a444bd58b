"""The segment between the nodes: a switch, what is wrong with its links, and recordings of it."""
