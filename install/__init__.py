"""``flotilla-install``: puts the node that runs from an installation medium onto a disk.

layout.py   what goes where (disk.json of the medium)         pure
gpt.py      the partition table for a disk of a given size    pure
device.py   what a disk is, and whether it may be written to
write.py    writing and verifying
state.py    the state partition that brings user-data along
cli.py      the command
"""
