"""What commands and a cluster's supervisor say to each other."""

LINE_BYTES_MAX = 1 << 20
"""Of one request or reply."""
