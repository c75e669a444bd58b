"""From a definition and its lock to artifacts in a folder: the order of the steps, and what the store keeps of them."""
