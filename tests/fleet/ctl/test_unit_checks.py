"""What systemd would say of a unit is said before the cluster has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fleetctl = Any  # tests/fleet/ctl/conftest.py, which importlib mode keeps out of reach
UnitFile = Callable[..., Path]

MISSPELT = "[Service]\nExecStart=/bin/true\nRestrat=always\n"
REFUSED = "[Service]\nExecStrat=/bin/true\n"


@pytest.mark.parametrize("command", ["submit", "load", "start"])
def test_what_systemd_ignores_is_a_warning(fleetctl: Fleetctl, unit_file: UnitFile, command: str) -> None:
    unit_file(text=MISSPELT)
    said = fleetctl(command, "hello.service")
    assert said.code == 0
    assert said.err.startswith(
        "hello.service:3:1: warning: systemd knows no Restrat= in [Service] and ignores it\n    hint: did you mean Restart=?\n"
    )
    assert fleetctl("cat", "hello.service").out == MISSPELT


@pytest.mark.parametrize("command", ["submit", "load", "start"])
def test_what_systemd_refuses_is_refused_and_nothing_is_changed(
    fleetctl: Fleetctl, unit_file: UnitFile, command: str
) -> None:
    unit_file("good.service")
    unit_file(text=REFUSED)
    said = fleetctl(command, "good.service", "hello.service")
    assert (said.code, said.out) == (1, "")
    assert said.err.splitlines() == [
        "hello.service: error: the service has no ExecStart=: systemd refuses it",
        "    hint: add ExecStart= with an absolute path to [Service]",
        "hello.service:2:1: warning: systemd knows no ExecStrat= in [Service] and ignores it",
        "    hint: did you mean ExecStart=?",
        "fleetctl: error: hello.service: systemd would refuse the unit hello.service",
        "",
        "hint: correct the errors above",
    ]
    assert fleetctl("list-unit-files", "--no-legend").out == ""


def test_a_template_is_judged_as_the_instance_that_it_is_for(fleetctl: Fleetctl, unit_file: UnitFile) -> None:
    unit_file("web@.service", "[Service]\nExecStart=/bin/echo %i\n")
    assert fleetctl("submit", "web@.service").err == ""
    assert fleetctl("submit", "web@1.service").err == ""
    unit_file("plain.service", "[Service]\nExecStart=/bin/echo %i\n")
    assert "plain.service:2:11: warning: ExecStart= has %i" in fleetctl("submit", "plain.service").err


def test_what_the_cluster_has_is_not_judged_again(fleetctl: Fleetctl, unit_file: UnitFile) -> None:
    unit_file(text=MISSPELT)
    fleetctl("submit", "hello.service")
    assert fleetctl("submit", "hello.service").err == ""
    unit_file(text=REFUSED)
    assert fleetctl("submit", "--replace", "hello.service").code == 1
    assert fleetctl("cat", "hello.service").out == MISSPELT
