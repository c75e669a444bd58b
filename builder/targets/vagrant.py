"""Target ``vagrant``: boxes for the providers libvirt and virtualbox.

Format: Vagrant's documentation, "Box File Format", and vagrant-libvirt's, "Box Format" (its version 1); for VirtualBox
the DMTF's "Open Virtualization Format Specification" 1.1 (DSP0243), as far as VirtualBox reads it: only the Vagrantfile
can request UEFI.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from string import Template
from typing import Final

from builder.formats import archive, virtualdisk
from builder.formats.archive import Member
from builder.targets.target import DATASOURCES, Parts, Target
from terminal import Failure

KEYS: Final = "/usr/share/flotilla/vagrant/user-data"
"""Accepts vagrant's well-known key (``image/overlay``); read if there is no other user-data."""
DISK_BYTES: Final = 16 << 30
"""Nominal size of a box's disk; it occupies only what is written."""
MEMORY_MIB: Final = 1024
VMDK: Final = "box-disk001.vmdk"

_VAGRANTFILE: Final = """\
# Defaults of this box; what a project's own Vagrantfile says comes first.
Vagrant.configure("2") do |config|
  config.ssh.username = "core"
  config.vm.guest = :linux
  config.vm.synced_folder ".", "/vagrant", disabled: true
${provider}end
"""

_LIBVIRT: Final = """\
  config.vm.provider :libvirt do |libvirt|
    libvirt.machine_type = "q35"
    libvirt.disk_bus = "virtio"
    libvirt.memory = $memory
    # The box starts by UEFI. Elsewhere than on Debian, Ubuntu, Arch or openSUSE, set libvirt.loader to the firmware (code and variables in one file).
    libvirt.loader = %w[
      /usr/share/ovmf/OVMF.fd
      /usr/share/edk2/x64/OVMF.4m.fd
      /usr/share/qemu/ovmf-x86_64.bin
    ].find { |path| File.exist?(path) }
  end
"""

_VIRTUALBOX: Final = """\
  config.vm.base_mac = "$mac"
  config.vm.provider :virtualbox do |virtualbox|
    virtualbox.memory = $memory
    virtualbox.default_nic_type = "virtio"
    virtualbox.check_guest_additions = false
    virtualbox.functional_vboxsf = false
    virtualbox.customize ["modifyvm", :id, "--firmware", "efi"]
  end
"""

_OVF: Final = """\
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" ovf:version="1.0" xml:lang="en-US">
  <References>
    <File ovf:id="file1" ovf:href="$vmdk" ovf:size="$size"/>
  </References>
  <DiskSection>
    <Info>The disk</Info>
    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="$capacity"
     ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>The network</Info>
    <Network ovf:name="NAT"/>
  </NetworkSection>
  <VirtualSystem ovf:id="$name">
    <Info>A node</Info>
    <OperatingSystemSection ovf:id="96">
      <Info>As CIM numbers them</Info>
      <Description>Debian_64</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>One processor, one disk, one network card</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>$name</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>virtualbox-2.2</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:ElementName>processor</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>1</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:ElementName>memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>$memory</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:ElementName>disk controller</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>AHCI</rasd:ResourceSubType>
        <rasd:ResourceType>20</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>disk</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Connection>NAT</rasd:Connection>
        <rasd:ElementName>network card</rasd:ElementName>
        <rasd:InstanceID>5</rasd:InstanceID>
        <rasd:ResourceSubType>E1000</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
      </Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""


def write(parts: Parts, folder: Path) -> None:
    """Put ``<name>-libvirt.box`` and ``<name>-virtualbox.box`` into ``folder``.

    Raises :class:`Failure` for another architecture than amd64.
    """
    if parts.architecture != "amd64":
        raise Failure(
            f"vagrant boxes are for amd64, this node is for {parts.architecture}",
            hint="--target qemu has a disk for it",
        )
    installed = parts.install(f"{DATASOURCES},file:{KEYS}")
    raw, image, vmdk = (parts.work / name for name in ("disk.raw", "box.img", VMDK))
    installed.write_qcow2(image, at_least=DISK_BYTES)
    installed.write(raw, at_least=DISK_BYTES)
    virtualdisk.vmdk(raw, vmdk, installed.layout.identifier, parts.tools)
    size = raw.stat().st_size
    raw.unlink()
    boxes = {
        "libvirt": [
            _metadata("libvirt", parts, format="qcow2", virtual_size=-(-size >> 30)),
            _vagrantfile(_LIBVIRT, parts),
            Member(image.name, image),
        ],
        "virtualbox": [
            _metadata("virtualbox", parts),
            _vagrantfile(_VIRTUALBOX, parts),
            Member("box.ovf", ovf(parts.name, size, vmdk.stat().st_size).encode()),
            Member(vmdk.name, vmdk),
        ],
    }
    for provider, members in boxes.items():
        archive.tar_gz(members, folder / f"{parts.name}-{provider}.box", parts.epoch, parts.tools)
    image.unlink()
    vmdk.unlink()


def ovf(name: str, capacity: int, size: int) -> str:
    """The description of a machine ``name`` whose disk has ``capacity`` bytes, in a file of ``size`` bytes."""
    return Template(_OVF).substitute(name=name, capacity=capacity, size=size, vmdk=VMDK, memory=MEMORY_MIB)


def _metadata(provider: str, parts: Parts, **further: object) -> Member:
    value = {"provider": provider, "architecture": parts.architecture, **further}
    return Member("metadata.json", (json.dumps(value) + "\n").encode())


def _vagrantfile(provider: str, parts: Parts) -> Member:
    # VirtualBox's own prefix; vagrant gives every machine made from the box another address.
    mac = "080027" + hashlib.sha256(parts.name.encode()).hexdigest()[:6].upper()
    text = Template(_VAGRANTFILE).substitute(provider=Template(provider).substitute(memory=MEMORY_MIB, mac=mac))
    return Member("Vagrantfile", text.encode())


TARGETS = (Target("vagrant", "boxes for the providers libvirt and virtualbox", write),)
