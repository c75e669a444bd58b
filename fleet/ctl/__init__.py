"""The command ``fleetctl``: everything a user does to units, from a node or from anywhere that can ssh to one."""
