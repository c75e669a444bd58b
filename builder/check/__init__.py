"""Builds compared: with a second build, with each other, with what maintainer scripts would have made."""
