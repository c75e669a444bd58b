"""User-data read: from bytes to frozen values with the line of each key."""
