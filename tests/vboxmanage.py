"""A stand-in for VirtualBox's command, which no machine of our tests has: ``python vboxmanage.py FOLDER WORD...``.

It records its calls, one JSON list a line in ``FOLDER/calls``, and reports of one machine as much as
Vagrant reads. That machine cannot be started.
"""

import json
import sys
from pathlib import Path

IDENTITY = "11111111-2222-3333-4444-555555555555"
MACHINE = f"""\
name="node"
UUID="{IDENTITY}"
VMState="poweroff"
nic1="nat"
nic2="hostonly"
hostonlyadapter2="vboxnet0"
storagecontrollername0="SATA Controller"
storagecontrollertype0="IntelAhci"
storagecontrollerportcount0="1"
"SATA Controller-0-0"="/machines/node/disk.vmdk"
"""
INTERFACE = """\
Name:            vboxnet0
GUID:            786f6276-656e-4074-8000-0a0027000000
DHCP:            Disabled
IPAddress:       192.168.58.1
NetworkMask:     255.255.255.0
IPV6Address:
Status:          Up
VBoxNetworkName: HostInterfaceNetworking-vboxnet0
"""


def main(folder: Path, words: list[str]) -> int:
    """Answer; returns the exit code."""
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    name = folder / "name"
    match words:
        case ["--version"]:
            print("7.0.20r163906")
        case ["import", "-n", _]:
            print("Virtual system 0:")
            print(' 0: Suggested VM name "node"')
            print(" 1: Hard disk image: source image=disk.vmdk, target path=/machines/node/disk.vmdk, controller=0")
        case ["import", *rest]:
            name.write_text(rest[rest.index("--vmname") + 1])
        case ["list", "vms"] if name.exists():
            print(f'"{name.read_text()}" {{{IDENTITY}}}')
        case ["list", "hostonlyifs"]:
            print(INTERFACE)
        case ["list", "systemproperties"]:
            print("Default machine folder:          /machines")
        case ["showvminfo", *_]:
            print(MACHINE)
        case ["startvm", *_]:
            print("there is no VirtualBox here", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
