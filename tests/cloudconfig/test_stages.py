"""bootcmd, runcmd, phone_home, final_message, power_state: the scripts are run by a real shell."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.node import phone
from cloudconfig.plan import plan
from cloudconfig.text import parse, stages
from cloudconfig.text.schema import CloudConfig
from terminal import Failure
from tests.cloudconfig.node import ShadowNode
from unitfile.text import UnitFile


def config(text: str) -> CloudConfig:
    document = parse.parse("#cloud-config\n" + text)
    assert not document.findings, document.findings
    return document.config


def sh(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh"], input=text, capture_output=True, text=True, cwd=folder, check=False, timeout=60)


def test_commands_see_each_other_and_failures_are_named(tmp_path: Path) -> None:
    text = """\
runcmd:
- cd /
- [echo, "a b", '$HOME']
- x=1
- false
- |
  cat <<EOF
  x is $x
  EOF
- sh -c 'exit 3'
- null
- echo last
"""
    done = sh(stages.script(config(text).runcmd), tmp_path)
    assert done.stdout == "a b $HOME\nx is 1\nlast\n"
    assert done.stderr.splitlines()[-1] == "cloudconfig: failed: runcmd[3] (1) runcmd[5] (3)"
    assert done.returncode == 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cc", "Cs"])),
        min_size=1,
        max_size=4,
    )
)
def test_words_reach_a_program_as_they_are(words: list[str]) -> None:
    text = "#cloud-config\n" + json.dumps({"runcmd": [["printf", "%s\\n", *words]]}, ensure_ascii=False)
    document = parse.parse(text)
    done = subprocess.run(
        ["sh"], input=stages.script(document.config.runcmd).encode(), capture_output=True, check=False
    )
    assert (done.stdout.decode(), done.returncode) == ("".join(f"{word}\n" for word in words), 0)


def final(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The last step of a text, without a network to wait for."""
    made = plan.make(config(text))
    (folder / "runcmd").write_bytes(next(file.content for file in made.files if file.path == stages.RUN_SCRIPT))
    wait = "/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=60"
    assert wait in made.final
    return sh(made.final.replace(wait, "true").replace(stages.RUN_SCRIPT, str(folder / "runcmd")), folder)


def test_an_exit_ends_runcmd_and_not_what_comes_after(tmp_path: Path) -> None:
    done = final("runcmd: [exit 7, echo never]\nfinal_message: it's up after $UPTIME s\n", tmp_path)
    assert "never" not in done.stdout
    assert done.stdout.startswith("it's up after ")
    assert done.returncode == 7


def test_no_command_reads_the_others(tmp_path: Path) -> None:
    done = final("runcmd: [cat, echo after, read x, echo end]\n", tmp_path)
    assert done.stdout == "after\nend\n"


def test_another_runcmd_is_another_last_step() -> None:
    assert plan.make(config("runcmd: [a]\n")).final != plan.make(config("runcmd: [b]\n")).final


def test_cloud_init_per(tmp_path: Path) -> None:
    text = stages.script(
        config("bootcmd: [[cloud-init-per, once, a, echo, one], 'cloud-init-per always b echo each']\n").bootcmd
    )
    text = text.replace("/var/lib/cloudconfig", str(tmp_path))
    assert sh(text, tmp_path).stdout == "one\neach\n"
    assert sh(text, tmp_path).stdout == "each\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runcmd: [{a: b}]\n", "runcmd[0]: must be text or a list of words, is a mapping"),
        ("runcmd: ls\n", "runcmd: must be a list, is text"),
        ("bootcmd: [[ls, [x]]]\n", "bootcmd[0]: must be text or a list of words"),
        ("power_state: {delay: now}\n", "power_state: has no mode"),
        ("power_state: {mode: off}\n", "power_state.mode: is none of the known words"),
        ("power_state: {mode: reboot, delay: soon}\n", "power_state.delay: must be now or +minutes"),
        ("power_state: {mode: reboot, condition: {a: b}}\n", "power_state.condition: must be true, false or a command"),
        ("phone_home: {tries: 3}\n", "phone_home: has no url"),
        ("phone_home: {url: 'ftp://x'}\n", "phone_home.url: not a URL"),
        ("phone_home: {url: 'http://a', post: [secret]}\n", "phone_home.post[0]: is none of the known words"),
        ("phone_home: {url: 'http://a', tries: 1000}\n", "phone_home.tries: must be 1 to 100"),
        ('final_message: "a\\ab"\n', "final_message: has a control character"),
    ],
)
def test_bad(text: str, expected: str) -> None:
    found = [one.render("f") for one in validate.validate(("#cloud-config\n" + text).encode())]
    assert any("error" in one and expected in one for one in found), found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mode: poweroff", "systemctl --no-block poweroff"),
        ("mode: reboot, delay: now", "systemctl --no-block reboot"),
        ("mode: halt, delay: '+5', message: it's late", "shutdown -H +5 'it'\"'\"'s late'"),
        ("mode: reboot, delay: 30", "shutdown -r +30"),
        ("mode: reboot, condition: test -e /x", "if /bin/sh -c 'test -e /x'; then"),
        ("mode: reboot, condition: [test, -e, /x]", "if test -e /x; then"),
        ("mode: reboot, condition: true", "systemctl --no-block reboot"),
    ],
)
def test_power_state(text: str, expected: str, tmp_path: Path) -> None:
    state = config(f"power_state: {{{text}}}\n").power_state
    assert expected in state
    assert sh(f"systemctl() {{ :; }}\nshutdown() {{ :; }}\n{state}", tmp_path).returncode == 0


def test_no_power_state() -> None:
    assert plan.make(config("power_state: {mode: reboot, condition: false}\n")).final == ""


def test_the_boot_unit_comes_before_all_services() -> None:
    unit = UnitFile.parse(stages.boot_unit())
    assert "sysinit.target" in unit.get("Unit", "Before")[0]
    assert unit.get("Unit", "DefaultDependencies") == ("no",)


def test_what_runs_when(tmp_path: Path) -> None:
    """bootcmd at each boot, the last step once for an instance and a text; both are queued, none is waited for."""
    node = ShadowNode(tmp_path)
    text = "#cloud-config\nbootcmd: [echo boot]\nruncmd: [echo run]\n"
    boot = "systemctl --no-block start cloudconfig-boot.service"
    last = "--collect --unit=cloudconfig-final --property=Type=oneshot --property=After="
    for instance, runs in (("i-1", True), ("i-1", False), ("i-2", True)):
        outcome = node.apply(text, instance_id=instance)
        assert (outcome.result, outcome.errors) == ("done", ())
        assert boot in node.machine.ran
        assert any(last in line and line.endswith("scripts/final") for line in node.machine.ran) == runs
    assert (tmp_path / "run/cloudconfig/bootcmd").stat().st_mode & 0o777 == 0o700
    node.apply("#cloud-config\n")
    assert not (tmp_path / "run/cloudconfig/bootcmd").exists()
    assert not (tmp_path / "run/systemd/system/cloudconfig-boot.service").exists()


def test_phone_home(tmp_path: Path) -> None:
    forms: list[dict[str, list[str]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            forms.append(urllib.parse.parse_qs(body))
            self.send_response(200 if len(forms) > 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silence."""

    (tmp_path / "run/cloudconfig").mkdir(parents=True)
    (tmp_path / "etc/ssh").mkdir(parents=True)
    (tmp_path / "etc/ssh/ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA\n")
    slept: list[float] = []
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/up"
        text = config(
            f"phone_home: {{url: '{url}', tries: 2, post: [pub_key_ed25519, pub_key_rsa, hostname]}}\n"
        ).phone_home
        (tmp_path / "run/cloudconfig/phone-home.json").write_text(text)
        try:
            phone.home(tmp_path, slept.append)
        finally:
            server.shutdown()
            thread.join()
    assert (len(forms), len(slept)) == (2, 1)
    assert forms[1]["pub_key_ed25519"] == ["ssh-ed25519 AAAA"]
    assert forms[1]["pub_key_rsa"] == ["N/A"]
    with pytest.raises(Failure, match="no answer after 2 tries"):
        phone.home(tmp_path, slept.append)
