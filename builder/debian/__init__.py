"""Debian archives: indexes by apt, packages fetched and unpacked, locks of them, and the tools closure made of them."""
