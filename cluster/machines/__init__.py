"""What runs a node: QEMU, libvirt here or elsewhere, or namespaces of this kernel, behind one protocol (:mod:`cluster.machines.driver`)."""
