"""What counts as trouble in a console or journal, and what does not; samples are in the form of their programs' own
words.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.testing.scan import AFTER, BEFORE, KINDS, Finding, dated, merged, message, scan

OOPS = """\
[   93.120011] BUG: kernel NULL pointer dereference, address: 0000000000000008
[   93.120019] #PF: supervisor read access in kernel mode
[   93.120021] #PF: error_code(0x0000) - not-present page
[   93.120024] PGD 0 P4D 0
[   93.120027] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
[   93.120031] CPU: 0 UID: 0 PID: 812 Comm: modprobe Not tainted 6.12.117-cloud-amd64 #1
[   93.120040] RIP: 0010:broken_init+0x1a/0x30 [broken]
[   93.120071] Call Trace:
[   93.120073]  <TASK>
[   93.120075]  do_one_initcall+0x58/0x310
[   93.120090] ---[ end trace 0000000000000000 ]---
[   93.120102] RIP: 0010:broken_init+0x1a/0x30 [broken]
[   93.120120] Kernel panic - not syncing: Fatal exception
[   93.120130] ---[ end Kernel panic - not syncing: Fatal exception ]---"""
WARNING = """\
[   12.000001] ------------[ cut here ]------------
[   12.000002] WARNING: CPU: 0 PID: 1 at kernel/time/timekeeping.c:1421 timekeeping_get_ns+0x5/0x20
[   12.000003] Modules linked in: overlay
[   12.000004] Call Trace:
[   12.000005] ---[ end trace 0000000000000000 ]---"""
OUT_OF_MEMORY = """\
[  201.1] stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
[  201.1] CPU: 0 UID: 1000 PID: 3021 Comm: stress Not tainted
[  201.2] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=docker.scope
[  201.2] Memory cgroup out of memory: Killed process 3021 (stress) total-vm:262144kB, anon-rss:65536kB"""
TRACEBACK = """\
2026-11-23T14:00:01.000100+00:00 node-1 fleetd[412]: Traceback (most recent call last):
2026-11-23T14:00:01.000200+00:00 node-1 fleetd[412]:   File "/usr/lib/python3/dist-packages/fleet/daemon.py", line 7, in main
2026-11-23T14:00:01.000300+00:00 node-1 fleetd[412]:     loop()
2026-11-23T14:00:01.000400+00:00 node-1 fleetd[412]: KeyError: 'desired'
2026-11-23T14:00:01.000500+00:00 node-1 fleetd[412]: During handling of the above exception, another exception occurred:
2026-11-23T14:00:01.000600+00:00 node-1 systemd[1]: fleet.service: Main process exited, code=exited, status=1/FAILURE"""
GO_PANIC = """\
2026-11-23T14:00:01.000100+00:00 node-2 etcd[400]: panic: runtime error: invalid memory address or nil pointer dereference
2026-11-23T14:00:01.000100+00:00 node-2 etcd[400]: [signal SIGSEGV: segmentation violation code=0x1 addr=0x18 pc=0x1234]
2026-11-23T14:00:01.000100+00:00 node-2 etcd[400]: goroutine 91 [running]:
2026-11-23T14:00:01.000100+00:00 node-2 systemd[1]: etcd.service: Main process exited, code=dumped, status=6/ABRT"""
CORE = """\
2026-11-23T14:00:02.1+00:00 node-1 kernel: redis-server[812]: segfault at 18 ip 000055d2 sp 00007ffc error 4 in redis-server[55d2+1000]
2026-11-23T14:00:02.2+00:00 node-1 systemd-coredump[830]: Process 812 (redis-server) of user 0 dumped core.
2026-11-23T14:00:02.3+00:00 node-1 systemd[1]: redis.service: Main process exited, code=dumped, status=11/SEGV
2026-11-23T14:00:02.4+00:00 node-1 systemd[1]: redis.service: Failed with result 'core-dump'."""

TROUBLE = {
    "an oops that ends in a panic": (
        OOPS,
        ["panic: BUG: kernel NULL pointer dereference, address: 0000000000000008; Kernel panic - not syncing: Fatal exception"],
    ),
    "a warning": (
        WARNING,
        ["warning: WARNING: CPU: 0 PID: 1 at kernel/time/timekeeping.c:1421 timekeeping_get_ns+0x5/0x20"],
    ),
    "two warnings": (
        f"{WARNING}\n{WARNING}",
        ["warning: WARNING: CPU: 0 PID: 1 at kernel/time/timekeeping.c:1421 timekeeping_get_ns+0x5/0x20"] * 2,
    ),
    "out of memory": (
        OUT_OF_MEMORY,
        ["oom: stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"],
    ),
    "a traceback": (TRACEBACK, ["traceback: KeyError: 'desired'"]),
    "a panic of Go": (GO_PANIC, ["go panic: panic: runtime error: invalid memory address or nil pointer dereference"]),
    "a core dump": (CORE, ["segfault: redis-server[812]: segfault at 18 ip 000055d2 sp 00007ffc error 4 in redis-server[55d2+1000]"]),
    "a panic alone": (
        "[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        ["panic: Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"],
    ),
    "an oops of arm64": (
        "[    9.1] Internal error: Oops: 0000000096000004 [#1] SMP",
        ["oops: Internal error: Oops: 0000000096000004 [#1] SMP"],
    ),
    "a protection fault": (
        "[    9.1] Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] PREEMPT",
        ["oops: Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] PREEMPT"],
    ),
    "a BUG": ("[    9.1] kernel BUG at mm/slub.c:553!", ["bug: kernel BUG at mm/slub.c:553!"]),
    "a lockup": (
        "[  120.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [etcd:400]",
        ["stall: watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [etcd:400]"],
    ),
    "a stall": (
        "[  120.0] rcu: INFO: rcu_preempt self-detected stall on CPU",
        ["stall: rcu: INFO: rcu_preempt self-detected stall on CPU"],
    ),
    "verity": (
        "[    3.0] device-mapper: verity: 254:0: data block 17 is corrupted",
        ["verity: device-mapper: verity: 254:0: data block 17 is corrupted"],
    ),
    "an emergency shell": (
        "[    5.0] systemd[1]: Reached target emergency.target - Emergency Mode.\nYou are in emergency mode. After logging in, type",
        [
            "emergency: Reached target emergency.target - Emergency Mode.",
            "emergency: You are in emergency mode. After logging in, type",
        ],
    ),
    "an ordering cycle": (
        ("[    4.0] systemd[1]: local-fs.target: Found ordering cycle on web.service/start\n"
        "[    4.0] systemd[1]: local-fs.target: Found dependency on sysinit.target/start\n"
        "[    4.0] systemd[1]: local-fs.target: Job web.service/start deleted to break ordering cycle starting with local-fs.target/start"),
        ["ordering cycle: local-fs.target: Found ordering cycle on web.service/start"],
    ),
    "a generator": (
        "[    1.0] (sd-execut[101]: /usr/lib/systemd/system-generators/seed failed with exit status 1.",
        ["generator: /usr/lib/systemd/system-generators/seed failed with exit status 1."],
    ),
    "killed for memory by systemd's word": (
        "2026-11-23T14:00:02+00:00 node-1 systemd[1]: web.service: A process of this unit has been killed by the OOM killer.",
        ["oom: web.service: A process of this unit has been killed by the OOM killer."],
    ),
}  # fmt: skip

QUIET = """\
[    0.000000] Linux version 6.12.117-cloud-amd64 (debian-kernel@lists) #1 SMP PREEMPT_DYNAMIC
[    0.010000] Kernel command line: console=ttyS0 panic=-1 oops=panic ro
[    0.020000] rcu: Preemptible hierarchical RCU implementation.
[    0.500000] PCI: Warning: bridge window is odd
[    1.100000] EXT4-fs (vdb): recovery complete
[    1.200000] systemd[1]: emergency.service - Emergency Shell was skipped because of an unmet condition check
[    1.300000] systemd[1]: Dependency failed for nothing.mount
[    1.400000] systemd[1]: systemd-coredump.socket - Process Core Dump Socket listening
[    1.500000] watchdog: Watchdog reset
[  OK  ] Reached target multi-user.target - Multi-User System.
2026-11-23T14:00:00+00:00 node-1 systemd-journald[90]: File /var/log/journal/x/system.journal corrupted or uncleanly shut down, renaming and replacing.
2026-11-23T14:00:00+00:00 node-1 etcd[400]: {"level":"warn","msg":"lost TCP streaming connection with remote peer","error":"unexpected EOF"}
2026-11-23T14:00:00+00:00 node-1 fleetd[412]: error: etcd did not answer
2026-11-23T14:00:00+00:00 node-1 dockerd[500]: level=warning msg="panic mode is not a thing"
2026-11-23T14:00:00+00:00 node-1 systemd[1]: web.service: Main process exited, code=killed, status=9/KILL
2026-11-23T14:00:00+00:00 node-1 systemd[1]: docker.service: Consumed 2s CPU time.
2026-11-23T14:00:00+00:00 node-1 sudo[77]: core : COMMAND=/usr/bin/grep -i traceback
node-1 login:"""


def texts(findings: list[Finding]) -> list[str]:
    return [f"{finding.kind}: {finding.text}" for finding in findings]


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_found_once(name: str) -> None:
    text, expected = TROUBLE[name]
    assert texts(scan(text.splitlines(), node="node-1", source="console")) == expected


def test_every_kind_has_a_sample() -> None:
    found = {line.partition(": ")[0] for _, expected in TROUBLE.values() for line in expected}
    assert set(KINDS) - found == {"coredump"}, "which comes with the segfault above"
    alone = CORE.splitlines()[1:]
    assert [finding.kind for finding in scan(alone, node="node-1", source="journal")] == ["coredump"]


def test_a_healthy_node_and_one_whose_plug_was_pulled_are_quiet() -> None:
    assert scan(QUIET.splitlines(), node="node-1", source="console") == []


def test_a_finding_shows_where_it_is() -> None:
    lines = [*QUIET.splitlines(), *WARNING.splitlines(), *QUIET.splitlines()]
    (finding,) = scan(lines, node="node-2", source="journal")
    assert lines[finding.line - 1].endswith(finding.text)
    assert finding.context == tuple(lines[finding.line - 1 - BEFORE : finding.line + AFTER])
    assert str(finding).startswith(f"warning on node-2 (journal, line {finding.line}): WARNING: CPU: 0 PID: 1 at")
    assert "  | [   12.000004] Call Trace:" in str(finding)


def test_a_line_in_console_and_journal_is_one_finding() -> None:
    console = scan(["[    3.0] Out of memory: Killed process 9 (a)"], node="node-1", source="console")
    line = "2026-11-23T14:00:02.25+00:00 node-1 kernel: Out of memory: Killed process 9 (a)"
    journal = scan([line], node="node-1", source="journal")
    other = scan([line], node="node-2", source="journal")
    assert merged([*console, *journal, *other]) == [*console, *other]
    assert journal[0].t == 1795442402.25
    assert dated("[    3.0] no date") is None


PREFIXES = [
    "",
    "[   12.345678] ",
    "[   12.345678][    T1] ",
    "Nov 23 14:00:00 node-1 kernel: ",
    "Nov  3 14:00:00.123456 node-1 kernel: ",
    "2026-11-23T14:00:00+00:00 node-1 kernel: ",
    "2026-11-23T14:00:00.123456+01:00 node-1 web.sh[3]: ",
    "[   12.345678] systemd[1]: ",
    "<4>[   12.345678] ",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", TROUBLE)
def test_stamps_and_names_make_no_difference(prefix: str, name: str) -> None:
    text, expected = TROUBLE[name]
    lines = [prefix + message(line) for line in text.splitlines()]
    assert texts(scan(lines, node="node-1", source="journal")) == expected


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), max_size=20), st.sampled_from(sorted(TROUBLE)))
def test_any_text_is_taken_and_hides_nothing(noise: list[str], name: str) -> None:
    quiet = [line for line in noise if not scan([line], node="n", source="console")]
    lines = [*quiet, *TROUBLE[name][0].splitlines(), *quiet]
    found = scan(lines, node="node-1", source="console")
    assert [finding.kind for finding in found] == [line.partition(": ")[0] for line in TROUBLE[name][1]]
    for finding in scan(noise, node="n", source="console"):
        assert finding.kind in KINDS
        assert noise[finding.line - 1] in finding.context
