"""Debian archives: apt's indexes, packages fetched and unpacked, their locks, and the tools closure made of them."""
