"""Into a lock: versions resolved, and the maintainer scripts that a person has reviewed."""
