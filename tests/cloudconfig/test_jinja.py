"""Templates: rendered on a node that has jinja2, refused with the next step on one that has not."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.definition.definition import load
from cloudconfig.check import validate
from cloudconfig.host import render
from cloudconfig.text import finding, jinja, userdata

ROOT = Path(__file__).parents[2]
HEAD = "## template: jinja\n"
DOUBLED = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
DOUBLED_TEXT = DOUBLED.replace("[1]", "'x'")
DATA = jinja.instance_data(
    "openstack", "i-1", "web-1", ("ssh-ed25519 A",), {"local-hostname": "web-1", "region": "eu", "x": "y"}
)


def rendered(text: str) -> str:
    contents = userdata.read((HEAD + text).encode(), lambda: DATA)
    assert contents.findings == ()
    return "".join(part.text for part in contents.parts)


def test_names_are_those_of_cloud_init() -> None:
    text = rendered(
        "#cloud-config\nhostname: {{ v1.local_hostname }}-{{ instance_id }}-{{ v1.instance_id }}\n"
        "x: {{ ds.meta_data.local_hostname }} {{ ds.meta_data['local-hostname'] }} {{ ds['meta_data'].x }}\n"
        "{% if v1.region == 'eu' %}\ny: {{ cloud_name }}\n{% endif %}\n"
        "ssh_authorized_keys: {{ v1.public_ssh_keys }}\nz: {{ v1.availability_zone | default('none') }}\n"
    )
    assert text == (
        "#cloud-config\nhostname: web-1-i-1-i-1\nx: web-1 web-1 y\ny: openstack\n"
        "ssh_authorized_keys: ['ssh-ed25519 A']\nz: none\n"
    )


def test_scripts_and_parts_of_a_message_are_templates_too() -> None:
    assert rendered("#!/bin/sh\necho {{ v1.region }}\n") == "#!/bin/sh\necho eu\n"
    for media_type in ("text/jinja2", "text/cloud-config", "text/plain"):
        data = f"MIME-Version: 1.0\nContent-Type: {media_type}\n\n{HEAD}#cloud-config\nhostname: {{{{ v1.region }}}}\n"
        contents = userdata.read(data.encode(), lambda: DATA)
        assert [part.text for part in contents.parts] == ["#cloud-config\nhostname: eu\n"]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("#cloud-config\nhostname: {{ v1.hostnam }}\n", "3:17", "has no attribute 'hostnam'"),
        ("#cloud-config\n\nhostname: a{{ nothing }}\n", "4:15", "'nothing' is undefined"),
        ("#cloud-config\nhostname: {{ a b }}\n", "3:11", "not a jinja template"),
        ("#cloud-config\n{% if a %}\n", "3:1", "not a jinja template"),
        ("#cloud-config\na: {{ 1 // 0 }}\n", "3:4", "the template fails"),
        ("a: {{ 'a' * 9999999 }}\n", "2:4", "a product that is too large"),
        ("a: {{ [[1] * 9999] * 9999 }}\n", "2:4", "a list cannot be multiplied"),
        ("a: {{ 9 ** 999999 }}\n", "2:4", "a product that is too large"),
        ("a: {{ '%999999999d' % 1 }}\n", "2:4", "texts of any width"),
        ("{% for a in range(99999) %}{{ 'a' * 999 }}{% endfor %}", "1:1", "makes more than 1 MiB"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "2:1", "unsafe"),
        ("{{ " + "1," * 9999 + " }}", "1:1", "inside its tags"),
        ("{% include 'a' %}", "2:1", "the template fails"),
    ],
)
def test_mistakes_have_their_place_in_the_users_text(text: str, place: str, message: str) -> None:
    contents = userdata.read((HEAD + text).encode(), lambda: DATA)
    (error,) = contents.findings
    assert f"{error.line}:{error.column}" == place
    assert message in error.message
    assert contents.parts == ()
    assert contents.ruins == (HEAD + text,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 0.2 s of CPU"),
        (f"{DOUBLED}{{% set n.x = n.x + n.x %}}{{% endfor %}}", "MemoryError"),
        (f"{DOUBLED_TEXT}{{% set n.x = n.x ~ n.x %}}{{% endfor %}}", "MemoryError"),
    ],
    ids=["loops", "a list", "a text"],
)
def test_a_template_ends_within_its_time_and_memory(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (signal.getsignal(signal.SIGVTALRM), resource.getrlimit(resource.RLIMIT_AS))
    monkeypatch.setattr(jinja, "CPU_S", 0.2)
    (error,) = userdata.read((HEAD + text).encode(), lambda: DATA).findings
    assert message in error.message
    assert (signal.getsignal(signal.SIGVTALRM), resource.getrlimit(resource.RLIMIT_AS)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_without_jinja2_it_is_an_error_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    (error,) = userdata.read((HEAD + "#cloud-config\n").encode(), lambda: DATA).findings
    assert (error.line, error.severity) == (1, "error")
    assert "no jinja2" in error.message
    assert "cloudconfig render" in error.hint


def test_the_host_accepts_what_our_image_can_read() -> None:
    packages = {str(getattr(one, "name", one)) for one in load(ROOT / "image/node.yaml").packages}
    assert ("python3-jinja2" in packages) == jinja.ON_THE_NODE


@pytest.mark.parametrize("there", [True, False])
def test_the_host_judges_what_it_can(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "ON_THE_NODE", there)
    (found,) = validate.validate((HEAD + "#cloud-config\nhostname: {{ v1.local_hostname }}\n").encode())
    assert found.severity == (finding.WARNING if there else finding.ERROR)
    assert "cloudconfig render" in found.hint
    broken = finding.errors(validate.validate((HEAD + "#cloud-config\nhostname: {{ v1. }}\n").encode()))
    assert len(broken) == 1


def test_render_on_the_host_is_that_next_step() -> None:
    text = render.render(HEAD + "#cloud-config\nhostname: {{ v1.local_hostname }}\n", {"v1": {"local_hostname": "w"}})
    assert text == "#cloud-config\nhostname: w\n"
    with pytest.raises(render.RenderError) as caught:
        render.render(HEAD + "#cloud-config\nhostname: {{ v1.region }}\n", {"v1": {}})
    assert caught.value.where == "template line 3"


@given(st.text(alphabet="{}%#- ab.|()'\n", max_size=60))
def test_any_template_is_rendered_or_refused(text: str) -> None:
    data = (HEAD + text).encode()
    for one in userdata.read(data, lambda: DATA).findings:
        assert 0 <= one.line <= data.count(b"\n") + 1
