"""The half that runs on the node, as root, early at boot."""
