"""What every step of a build uses: trees, the store, bundles of entries, ids of inputs."""
