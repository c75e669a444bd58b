"""The domain of a node, whole: whoever changes it must see what changes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.machines.domain import domain_xml
from cluster.model.machine import Machine
from tests.cluster.test_machine import MACHINE

IDENTITY = "0a0b0c0d-0000-4000-8000-000000000002"
GOLDEN = """\
<domain xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0" type="qemu">
  <name>flotilla-default-12345678-node-2</name>
  <uuid>0a0b0c0d-0000-4000-8000-000000000002</uuid>
  <memory unit="MiB">1024</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <kernel>/c/image/vmlinuz</kernel>
    <initrd>/c/image/initrd.img</initrd>
    <cmdline>console=ttyS0 ro flotilla.datasource=nocloud no_timer_check</cmdline>
  </os>
  <features>
    <acpi />
    <tcg>
      <tb-cache unit="MiB">256</tb-cache>
    </tcg>
  </features>
  <cpu mode="custom" match="exact" check="none">
    <model fallback="forbid">qemu64</model>
    <feature policy="require" name="ssse3" />
    <feature policy="require" name="sse4.1" />
    <feature policy="require" name="sse4.2" />
    <feature policy="require" name="popcnt" />
    <feature policy="require" name="aes" />
    <feature policy="require" name="pclmuldq" />
    <feature policy="require" name="sha-ni" />
    <feature policy="require" name="rdrand" />
    <feature policy="require" name="fsgsbase" />
    <feature policy="require" name="x2apic" />
  </cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/cache/qemu</emulator>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw" cache="unsafe" discard="unmap" />
      <source file="/c/image/root.img" />
      <target dev="vda" bus="virtio" />
      <serial>root</serial>
      <readonly />
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw" cache="unsafe" discard="unmap" />
      <source file="/c/node-2/state.img" />
      <target dev="vdb" bus="virtio" />
      <serial>state</serial>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw" cache="unsafe" discard="unmap" />
      <source file="/c/node-2/cidata.iso" />
      <target dev="vdc" bus="virtio" />
      <serial>cidata</serial>
      <readonly />
    </disk>
    <controller type="usb" model="none" />
    <serial type="file">
      <source path="/c/node-2/console.log" append="on" />
    </serial>
    <channel type="unix">
      <source mode="bind" path="/run/c/shell-2" />
      <target type="virtio" name="flotilla.shell" />
    </channel>
    <rng model="virtio">
      <backend model="random">/dev/urandom</backend>
    </rng>
    <memballoon model="none" />
  </devices>
  <qemu:commandline>
    <qemu:arg value="-netdev" />
    <qemu:arg value="{&quot;type&quot;: &quot;user&quot;, &quot;id&quot;: &quot;management&quot;, &quot;restrict&quot;: true, &quot;hostfwd&quot;: [{&quot;str&quot;: &quot;tcp:127.0.0.1:22002-:22&quot;}], &quot;guestfwd&quot;: [{&quot;str&quot;: &quot;tcp:10.0.2.100:8087-cmd:/usr/bin/python3 -I -S '/my code/forward.py' 127.0.0.1 22004&quot;}]}" />
    <qemu:arg value="-device" />
    <qemu:arg value="virtio-net-pci,netdev=management,mac=52:54:00:4d:00:02,bus=pcie.0,addr=0x10" />
    <qemu:arg value="-netdev" />
    <qemu:arg value="{&quot;type&quot;: &quot;stream&quot;, &quot;id&quot;: &quot;cluster&quot;, &quot;server&quot;: false, &quot;addr&quot;: {&quot;type&quot;: &quot;unix&quot;, &quot;path&quot;: &quot;/run/c/net-2&quot;}}" />
    <qemu:arg value="-device" />
    <qemu:arg value="virtio-net-pci,netdev=cluster,mac=52:54:00:43:00:02,bus=pcie.0,addr=0x11" />
  </qemu:commandline>
</domain>
"""


def test_the_whole_domain() -> None:
    assert domain_xml(MACHINE, "flotilla-default-12345678-node-2", IDENTITY, Path("/cache/qemu")) == GOLDEN


def test_hardware_needs_no_translated_code_and_another_architecture_another_board() -> None:
    kvm = ElementTree.fromstring(domain_xml(dataclasses.replace(MACHINE, accelerator="kvm"), "n", IDENTITY, Path("/q")))
    assert kvm.get("type") == "kvm"
    assert kvm.find("features/tcg") is None
    assert kvm.find("cpu[@mode='host-passthrough']") is not None
    arm = ElementTree.fromstring(
        domain_xml(dataclasses.replace(MACHINE, architecture="arm64"), "n", IDENTITY, Path("/q"))
    )
    assert arm.find("os/type[@arch='aarch64'][@machine='virt']") is not None


@pytest.mark.parametrize(
    "with_path",
    [
        lambda path: dataclasses.replace(MACHINE, state_disk=path),
        lambda path: dataclasses.replace(MACHINE, cidata=path),
        lambda path: dataclasses.replace(MACHINE, console=path),
        lambda path: dataclasses.replace(MACHINE, shell_socket=path),
    ],
    ids=["state_disk", "cidata", "console", "shell_socket"],
)
@given(
    text=st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20).filter(lambda text: "/" not in text)
)
def test_no_path_needs_quoting(with_path: Callable[[Path], Machine], text: str) -> None:
    path = Path("/") / text
    tree = ElementTree.fromstring(domain_xml(with_path(path), "n", IDENTITY, Path("/q")))
    assert str(path) in [value for element in tree.iter() for value in element.attrib.values()]
