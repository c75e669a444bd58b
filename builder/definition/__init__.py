"""The definition of an image: its files read, merged and checked against one model."""
