"""What nodes find on their segment besides each other: this computer, at 10.77.0.1.

Frames for it are delivered to :class:`cluster.services.provider.Services`. Time, names and addresses (NTP, DNS, DHCP)
are pure functions from a datagram to its answer; what needs TCP (discovery, metadata, files, the container registry)
goes through the TCP of a QEMU that runs no machine (:mod:`cluster.services.stack`) to servers on unix sockets.
"""
