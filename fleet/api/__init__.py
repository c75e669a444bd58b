"""The HTTP API of fleet, version 1.

It is the original's, so that the original client works, plus a few fields and one path of ours.

``shapes`` knows the JSON, ``handlers`` maps a request to a response, ``server`` moves the bytes. Source of the
contract: coreos/fleet, Documentation/api-v1.md and the behaviour of its fleetctl 1.0.0.
"""
