"""Checks of user-data before a node boots with it, and on the node before anything is applied."""
