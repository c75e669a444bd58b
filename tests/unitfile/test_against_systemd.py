"""What our linter says of a unit, and what the image's own systemd says: refused or not, and which lines it ignores."""

from __future__ import annotations

import random

import pytest

from tests.unitfile.corpus import UNITS
from tests.unitfile.systemd import Systemd
from unitfile import directives
from unitfile.lint import ERROR, WARNING, lint

pytestmark = pytest.mark.slow

SUFFIXES = {section: suffix for suffix, own in directives.SECTIONS.items() for section in own} | {"Unit": "service"}
# A unit of each type that systemd takes, to put one more line into.
BASES = {
    "automount": "[Automount]\n",
    "mount": "[Mount]\nWhat=/dev/x\n",
    "path": "[Path]\nPathExists=/x\n",
    "service": "[Service]\nExecStart=/bin/true\n",
    "slice": "[Slice]\n",
    "socket": "[Socket]\nListenStream=80\n",
    "swap": "[Swap]\n",
    "timer": "[Timer]\nOnBootSec=5\n",
}
VALUES = ("maybe", "0", "-1", "5min 2s", "512M", "/abs/path", "foo.service", "A=b")
# Values of these we let pass where systemd does not: that would take tables of addresses, capabilities, system calls,
# devices.
UNJUDGED = """
    AllowedCPUs AllowedMemoryNodes AssertNeedsUpdate BPFProgram BindPaths BindReadOnlyPaths BindToDevice
    BlockIOWeight BusName CPUAffinity CPUSchedulingPolicy CPUSchedulingPriority CacheDirectory
    ConditionNeedsUpdate ConfigurationDirectory CoredumpFilter DefaultStartupMemoryLow Delegate DelegateSubgroup
    DeviceAllow DisableControllers Documentation ExtensionImagePolicy ExtensionImages FailureActionExitStatus
    FileDescriptorName IODeviceLatencyTargetSec IODeviceWeight IOReadBandwidthMax IOReadIOPSMax IOSchedulingClass
    IOSchedulingPriority IOWriteBandwidthMax IOWriteIOPSMax IPAddressAllow IPAddressDeny IPEgressFilterPath
    IPIngressFilterPath IPTOS ImportCredential LimitAS LimitCORE LimitCPU LimitDATA LimitFSIZE LimitLOCKS
    LimitMEMLOCK LimitMSGQUEUE LimitNICE LimitRSS LimitRTPRIO LimitRTTIME LimitSIGPENDING LimitSTACK ListenNetlink
    ListenSequentialPacket LoadCredential LoadCredentialEncrypted LogExtraFields LogFilterPatterns LogNamespace
    LogsDirectory ManagedOOMMemoryPressureDurationSec ManagedOOMMemoryPressureLimit MountFlags MountImagePolicy
    MountImages NFTSet NUMAMask NUMAPolicy OpenFile PassEnvironment Personality Priority RestartForceExitStatus
    RestartPreventExitStatus RestrictAddressFamilies RestrictFileSystems RestrictNamespaces
    RestrictNetworkInterfaces RootHash RootHashSignature RootImageOptions RootImagePolicy RuntimeDirectory
    SetCredential SetCredentialEncrypted SocketBindAllow SocketBindDeny SocketProtocol StandardInputData
    StartupAllowedCPUs StartupAllowedMemoryNodes StartupBlockIOWeight StartupCPUWeight StartupIOWeight
    StateDirectory SuccessActionExitStatus SuccessExitStatus SyslogFacility SystemCallArchitectures
    SystemCallErrorNumber SystemCallFilter SystemCallLog TTYColumns TTYRows TemporaryFileSystem TimerSlackNSec
    Timestamping UnsetEnvironment
"""


def findings(name: str, text: str) -> tuple[bool, set[int]]:
    """Whether we refuse the unit, and the lines that we warn of."""
    found = lint(name, text)
    return any(each.severity == ERROR for each in found), {each.line for each in found if each.severity == WARNING}


@pytest.mark.parametrize(("name", "text"), UNITS)
def test_refused_by_both_or_by_neither(systemd: Systemd, name: str, text: str) -> None:
    verdict = systemd.verify({name: text})[name]
    refused, warned = findings(name, text)
    assert refused == verdict.refused, (verdict, lint(name, text))
    if not refused:
        assert warned == set(verdict.lines), (verdict, lint(name, text))


def matrix(value: str) -> dict[str, str]:
    """Each directive with ``value``, in a unit of its own; those that several sections share, once."""
    units = {}
    seen: set[tuple[str, str]] = set()
    for section in ("Unit", "Service", "Socket", "Slice", "Timer", "Path", "Mount", "Automount", "Swap"):
        suffix = SUFFIXES[section]
        for number, (directive, kind) in enumerate(directives.sections()[section].items()):
            if (directive, kind) not in seen:
                seen.add((directive, kind))
                units[f"{section}{number}.{suffix}"] = f"{BASES[suffix]}[{section}]\n{directive}={value}\n"
    return units


@pytest.mark.parametrize("value", VALUES)
def test_each_directive_with_a_value(systemd: Systemd, value: str) -> None:
    units = matrix(value)
    assert len(units) > 450
    wrong, silent = [], set()
    for name, verdict in systemd.verify(units).items():
        directive = units[name].splitlines()[-1].partition("=")[0]
        refused, warned = findings(name, units[name])
        said = set() if verdict.refused else set(verdict.lines)
        if (refused and not verdict.refused) or (not refused and warned - set(verdict.lines)):
            wrong.append((directive, verdict, lint(name, units[name])))  # we complain, and systemd takes it
        elif refused != verdict.refused or (not refused and warned != said):
            silent.add(directive)
    assert wrong == []
    # Whatever has a specifier in it is let pass, too.
    assert "%" in value or silent <= set(UNJUDGED.split())


def some_command(chance: random.Random) -> str:
    pieces = [
        *(
            "/bin/a",
            "b",
            "./c",
            "d/e",
            "-",
            "@",
            "+",
            "!",
            "!!",
            ":",
            " ",
            ";",
            " ; ",
            "'",
            '"',
            "'x y'",
            '"p q"',
            "\\x41",
            "/",
            "\t",
            "=",
        ),
        *("%i", "%%", "%n", "$A", "${B}", "\\", "\\;", '\\"', "#", "x"),
    ]
    made = "".join(chance.choices(pieces, k=chance.randint(1, 9))).strip()
    return made + "y" if made.endswith("\\") else made


def test_command_lines_that_chance_makes(systemd: Systemd, seed: int) -> None:
    chance = random.Random(seed)
    units = {}
    for number in range(600):
        directive = chance.choice(["ExecStart", "ExecStartPre", "ExecStop", "ExecReload"])
        line = f"{directive}={some_command(chance)}\n"
        units[f"u{number}.service"] = f"[Service]\nType=oneshot\nExecStart=/bin/true\n{line}"
    different = []
    for name, verdict in systemd.verify(units).items():
        refused, warned = findings(name, units[name])
        # Of an escape that it does not know systemd only says so, and of %i only we do.
        ignored = any("unknown escape" not in each for each in verdict.lines.get(4, ()))
        empty = any("%i" in each.message for each in lint(name, units[name]))
        if refused != verdict.refused or (not refused and not empty and (4 in warned) != ignored):
            different.append((units[name].splitlines()[-1], verdict, lint(name, units[name])))
    assert different == []
    assert len(units) // 10 < sum(findings(name, text)[0] for name, text in units.items()) < len(units) * 9 // 10
