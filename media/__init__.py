"""Disks and volumes, as far as building, seeding and installing share them. Nothing of ours is imported, and nothing but the standard library at import."""
