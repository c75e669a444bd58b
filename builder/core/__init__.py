"""What every step of a build stands on: trees, the store, bundles of entries, ids of inputs."""
