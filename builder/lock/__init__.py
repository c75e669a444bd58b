"""Making a lock: the resolved versions, and the review of maintainer scripts."""
