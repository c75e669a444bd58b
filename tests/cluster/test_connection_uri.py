"""What connection URIs mean, and what is said about those that mean nothing."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.model.connection_uri import EMBED_ROOT_BYTES_MAX, Place, parse
from terminal import UsageFailure


def test_this_computer() -> None:
    assert parse("qemu:///session") == Place("qemu:///session", "session")
    embed = parse("qemu:///embed?root=/run/my%20lab")
    assert (embed.kind, embed.root, embed.is_local) == ("embed", Path("/run/my lab"), True)


@pytest.mark.parametrize(
    ("uri", "host", "ssh"),
    [
        ("qemu+ssh://far/session", "far", ("ssh",)),
        ("qemu+ssh://me@far:2222/session", "far", ("ssh", "-l", "me", "-p", "2222")),
        (
            "qemu+ssh://[::1]/session?keyfile=/k/id&no_verify=1",
            "::1",
            ("ssh", "-i", "/k/id", "-o", "StrictHostKeyChecking=no"),
        ),
        ("qemu+ssh://far/session?command=/my/ssh&socket=/run/s&no_tty=1", "far", ("/my/ssh",)),
    ],
)
def test_another_computer_is_reached_as_libvirt_reaches_it(uri: str, host: str, ssh: tuple[str, ...]) -> None:
    place = parse(uri)
    assert (place.kind, place.host, place.ssh, place.is_local) == ("ssh", host, ssh, False)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "no such libvirt connection"),
        ("qemu", "no such libvirt connection"),
        ("xen:///", "no such libvirt connection"),
        ("qemu+tcp://far/session", "no such libvirt connection"),
        ("qemu+ssh:///session", "no such libvirt connection"),
        ("qemu+ssh://-oProxyCommand=x/session", "no such libvirt connection"),
        ("qemu+ssh://far:ssh/session", "this is no libvirt URI: Port could not be cast"),
        ("qemu+ssh://far/session?keyfile", "this is no libvirt URI: bad query field"),
        ("qemu:///system", "guests of the system's libvirt belong to root"),
        ("qemu+ssh://far/system", "guests of the system's libvirt belong to root"),
        ("qemu:///embed", "the embedded driver needs an absolute folder"),
        ("qemu:///embed?root=lab", "the embedded driver needs an absolute folder"),
        (f"qemu:///embed?root=/{'x' * EMBED_ROOT_BYTES_MAX}", "too long for sockets"),
    ],
)
def test_others_are_refused_with_what_was_given(uri: str, said: str) -> None:
    with pytest.raises(UsageFailure, match=said) as caught:
        parse(uri)
    assert caught.value.where == f"--connect {uri}"


@given(st.text(max_size=60) | st.text("qemu+sh:/@?=&[]%0", max_size=40).map(lambda tail: "qemu+ssh://" + tail))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    try:
        place = parse(text)
    except UsageFailure:
        return
    assert place.uri == text
    assert not place.host.startswith("-")
