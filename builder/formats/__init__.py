"""File formats that a build reads and writes."""
