"""What is saved of a text that cannot be used: the host name, core's keys, and the accounts that may sudo."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.node import salvage
from cloudconfig.text.schema import CloudConfig

KEYS = [f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GK{n}l k{n}" for n in range(4)]
ONE, TWO, THREE, FOUR = KEYS


def saved(*texts: str) -> CloudConfig:
    return salvage.essentials(texts)


def admins(config: CloudConfig) -> dict[str, tuple[str, ...]]:
    return {user.name: user.ssh_authorized_keys for user in config.users}


USERS = f"""\
users:
  - name: core
    ssh_authorized_keys: [{ONE}]
  - name: ops
    groups: [docker, sudo]
    ssh_authorized_keys:
      - {TWO}
  - name: boss
    sudo: ALL=(ALL) NOPASSWD:ALL
    ssh-authorized-keys:
      - {THREE}
  - name: joe
    ssh_authorized_keys: [{FOUR}]
"""


@pytest.mark.parametrize(
    "ruin",
    [
        "",
        "coreos: [\n",
        "coreos:\n\tetcd2: x\n",
        "write_files\n",
        'motd: "open\n',
        "coreos: {units: 7, fleet: []}\n",
        "users: [}\n",
        "a: &x b\n",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_admins_are_saved_wherever_the_mistake_stands(ruin: str, first: bool) -> None:
    good = "hostname: n1\n" + USERS
    config = saved("#cloud-config\n" + (ruin + good if first else good + ruin))
    assert config.hostname == "n1"
    assert config.ssh_authorized_keys == (ONE,)
    assert admins(config) == {"ops": (TWO,), "boss": (THREE,)}


def test_a_broken_entry_takes_no_other_with_it() -> None:
    config = saved(USERS.replace("    groups: [docker, sudo]", "    groups: [docker, sudo"))
    assert config.ssh_authorized_keys == (ONE,)
    assert admins(config) == {"boss": (THREE,)}


def test_a_broken_list_of_keys_still_has_lines() -> None:
    config = saved(f"ssh_authorized_keys:\n  - {ONE}\n  - '{TWO}'\n  - \"open\n   - x: y: z\n  -  {THREE}\n")
    assert config.ssh_authorized_keys == (ONE, TWO, THREE)


def test_whoever_may_do_less_than_everything_does_not_become_more() -> None:
    text = "users:\n- {name: a, sudo: 'ALL=(ALL) /bin/ls', ssh_authorized_keys: [k]}\n"
    assert saved(text).users == ()
    assert saved(text.replace("'ALL=(ALL) /bin/ls'", "false")).users == ()
    assert saved(text.replace("'ALL=(ALL) /bin/ls'", "['x', 'ALL = (ALL:ALL) ALL']")).users[0].groups == ("sudo",)
    assert saved(text.replace("sudo: 'ALL=(ALL) /bin/ls'", "groups: 'wheel, docker'")).users[0].groups == (
        "docker",
        "sudo",
    )


def test_keys_inside_of_a_file_are_not_for_core() -> None:
    """A text that writes another machine's user-data."""
    inner = "".join(
        f"    {line}\n" for line in f"#cloud-config\nhostname: x\nssh_authorized_keys:\n- {ONE}".split("\n")
    )
    text = f"write_files:\n- path: /a\n  content: |\n{inner}"
    for ruin in ("", "coreos: [\n"):
        assert saved(text + ruin) == CloudConfig()
    assert salvage.readable(f"#!/bin/sh\ncat <<E\nssh_authorized_keys:\n- {ONE}\nE\n".encode()) == ()


def test_several_texts_and_json() -> None:
    text = "#cloud-config\n" + json.dumps({"hostname": "n2", "ssh_authorized_keys": [TWO], "coreos": {"units": 1}})
    config = saved(f"ssh_authorized_keys: [{ONE}]\nx: [\n", text)
    assert (config.hostname, config.ssh_authorized_keys) == ("n2", (ONE, TWO))


def test_a_template_that_could_not_be_rendered() -> None:
    text = f"## template: jinja\n#cloud-config\nhostname: {{{{ v1.x }}}}\nssh_authorized_keys:\n- {ONE}\n"
    assert saved(text).ssh_authorized_keys == (ONE,)


PIECES = st.sampled_from(
    [USERS, "users:\n", "- ", "hostname: ", "ssh_authorized_keys:", f"- {ONE}\n", "[", '"', "\n", "a: ", "  "]
)


@given(st.lists(PIECES | st.text(max_size=5), max_size=8))
def test_nothing_is_raised(pieces: list[str]) -> None:
    config = saved("".join(pieces))
    assert all("sudo" in user.groups for user in config.users)
