"""What runs a node.

QEMU, libvirt here or elsewhere, and namespaces of this kernel share one protocol (:mod:`cluster.machines.driver`).
"""
