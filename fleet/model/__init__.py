"""The nouns of fleet, how etcd keeps them, and the one place that knows the keys."""
