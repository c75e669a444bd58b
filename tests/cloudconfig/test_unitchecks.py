"""Units in user-data are read as systemd reads them, and mistakes are reported at their place in the user-data."""

from __future__ import annotations

import base64

import pytest

from cloudconfig.check import image, validate
from cloudconfig.text import finding

SH = "/usr/bin/sh"


class Everything(frozenset[str]):
    """The programs of an image that has any."""

    def __contains__(self, _path: object) -> bool:
        return True


def found(text: str, binaries: frozenset[str] = Everything()) -> list[str]:
    which = image.ours()._replace(programs=binaries)
    return [one.render("f") for one in validate.validate(("#cloud-config\n" + text).encode(), which)]


def test_a_misspelt_directive_and_section_have_their_line_and_column() -> None:
    text = """\
coreos:
  units:
  - name: a.service
    content: |
      # why
      [Service]
      ExecStart=/bin/true
       ExecStrat=/bin/true

      [Srvice]
      Type=simple
"""
    directive, section = found(text)
    assert directive.splitlines() == [
        "f:9:8: warning: coreos.units[0].content: systemd knows no ExecStrat= in [Service] and ignores it",
        "    hint: did you mean ExecStart=?",
    ]
    assert section.splitlines() == [
        "f:11:7: warning: coreos.units[0].content: there is no section [Srvice]: systemd ignores it",
        "    hint: did you mean [Service]?",
    ]


def test_a_value_has_its_column() -> None:
    text = "coreos:\n  units:\n  - name: a.timer\n    content: |2\n        [Timer]\n        OnCalendar =  dayly\n        OnBootSec=5\n"
    assert found(text)[0].startswith("f:7:23: warning: coreos.units[0].content: OnCalendar= is wrong")


def test_a_secret_in_the_environment_is_a_warning_in_units_drop_ins_and_files() -> None:
    text = """\
coreos:
  units:
  - name: a.service
    content: |
      [Service]
      ExecStart=/bin/true
      Environment=MODE=fast DB_PASSWORD=hunter2
    drop_ins:
    - name: 10-more.conf
      content: |
        [Service]
        Environment=API_TOKEN=hunter2
write_files:
- path: /etc/systemd/system/ssh.service.d/10-more.conf
  content: |
    [Service]
    Environment=SSH_SECRET=hunter2
"""
    unit, drop_in, file = found(text)
    hint = "    hint: put it into a file of mode 0600, and name that with LoadCredential= or EnvironmentFile="
    said = "warning: coreos.units[0].content: Environment= has the value of DB_PASSWORD, which any local user can read"
    assert unit.splitlines() == [f"f:8:19: {said}", hint]
    assert drop_in.startswith(
        "f:13:21: warning: coreos.units[0].drop_ins[0].content: Environment= has the value of API_TOKEN"
    )
    assert file.startswith("f:18:17: warning: write_files[0].content: Environment= has the value of SSH_SECRET")
    assert "hunter2" not in unit + drop_in + file


def test_in_a_quoted_text_the_line_stands_in_the_message() -> None:
    text = 'coreos:\n  units:\n  - {name: a.service, content: "[Service]\\nExecStart=bin/true\\n"}\n'
    assert found(text)[-1].startswith(
        "f:4:32: error: coreos.units[0].content: ExecStart= is wrong: the program's path is not absolute (line 2 of it)"
    )


def test_what_systemd_would_refuse_is_an_error() -> None:
    assert finding.errors(
        validate.validate(b"#cloud-config\ncoreos: {units: [{name: a.service, content: '[Service]'}]}\n")
    )


def test_a_drop_in_is_judged_by_its_lines_and_counts_for_its_unit() -> None:
    text = """\
coreos:
  units:
  - name: a.service
    content: |
      [Unit]
      Description=a
    drop_ins:
    - name: 10-run.conf
      content: |
        [Service]
        ExecStart=/bin/true
        Restart=allways
"""
    (restart,) = found(text)
    assert restart.startswith("f:13:17: warning: coreos.units[0].drop_ins[0].content: Restart= is wrong")
    assert restart.endswith("hint: one of: no on-success on-failure on-abnormal on-abort on-watchdog always")
    assert (
        found("coreos:\n  units:\n  - name: docker.service\n    drop_ins: [{name: a.conf, content: '[Service]'}]\n")
        == []
    )


@pytest.mark.parametrize("folder", ["/etc/systemd/system", "/run/systemd/system"])
def test_files_where_systemd_looks_are_units(folder: str) -> None:
    text = f"write_files:\n- path: {folder}/a.service\n  content: |\n    [Service]\n    Tpye=simple\n    ExecStart=/x\n"
    assert found(text) == [
        "f:6:5: warning: write_files[0].content: systemd knows no Tpye= in [Service] and ignores it\n    hint: did you mean Type=?"
    ]
    assert found(text.replace("a.service", "a.service.d/10-x.conf")) == found(text)
    assert found(text.replace("a.service", "a.txt")) == []
    assert found(text.replace("/systemd/system", "/systemd/network")) == []


def test_a_file_that_is_no_unit_text() -> None:
    (one,) = found("write_files:\n- path: /etc/systemd/system/a.service\n  content: |\n    [Service]\n    secret\n")
    assert one.startswith("f:6:5: error: write_files[0].content: not the text of a unit\n    hint: ")


def test_an_encoded_file_has_the_place_of_its_key() -> None:
    content = base64.b64encode(b"[Service]\nExecStart=/x\nFoo=1\n").decode()
    text = f"write_files:\n- path: /etc/systemd/system/a.service\n  encoding: b64\n  content: |\n    {content}\n"
    assert found(text)[0].startswith(
        "f:5:12: warning: write_files[0].content: systemd knows no Foo= in [Service] and ignores it (line 3"
    )


def test_programs_that_the_image_lacks() -> None:
    text = """\
coreos:
  units:
  - name: a.service
    content: |
      [Service]
      ExecStartPre=/bin/sh -c true
      ExecStart=/usr/bin/etcd2
      ExecStop=-/usr/bin/nothing
      ExecStopPost=/opt/bin/made-later
"""
    assert found(text) == []
    assert [one.partition("\n")[0] for one in found(text, frozenset({SH}))] == [
        "f:8:17: error: coreos.units[0].content: ExecStart= runs a program that the image does not have",
        "f:9:16: warning: coreos.units[0].content: ExecStop= runs a program that the image does not have",
    ]


def test_a_value_never_reaches_a_message() -> None:
    text = """\
coreos:
  units:
  - name: a.service
    content: |
      [Service]
      ExecStart=s3cret/x
      Environment=s3cret
      Restart=s3cret
      OnCalendar=s3cret
      User=s3cret/
      WorkingDirectory=s3cret
      [Install]
      WantedBy=s3cret
"""
    messages = [one.message for one in validate.validate(("#cloud-config\n" + text).encode())]
    assert len(messages) > 6
    assert not any("s3cret" in each for each in messages)


def test_parts_of_a_message_are_kept_apart() -> None:
    part = "--b\nContent-Type: text/cloud-config\n\n#cloud-config\ncoreos: {units: [{name: a.service, content: '[Service]'}]}\n"
    data = f"Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n{part}{part}--b--\n".encode()
    assert {one.part for one in validate.validate(data) if "ExecStart" in one.message} == {"part 1", "part 2"}


def test_network_files_and_names_that_are_none_are_left_to_the_others() -> None:
    assert found('coreos:\n  units:\n  - {name: a.network, content: "[Match]\\nName=eth0\\n"}\n') == []
    (one,) = found("coreos:\n  units:\n  - {name: a.exe, content: '[Service]'}\n")
    assert "coreos.units[0].name" in one


def test_an_empty_file_masks_a_unit() -> None:
    assert found("write_files: [{path: /etc/systemd/system/a.service}]\n") == []


def test_many_units_with_mistakes_have_so_many_findings_and_the_error_among_them() -> None:
    bad = "".join(
        f"  - name: a{n}.service\n    content: |\n      [Service]\n      ExecStart=/x\n      Foo{n}=1\n"
        for n in range(900)
    )
    text = f"coreos:\n  units:\n{bad}  - {{name: z.service, content: '[Service]'}}\n"
    findings = validate.validate(("#cloud-config\n" + text).encode())
    assert len(findings) == finding.FINDINGS_MAX + 1
    assert [one.path for one in finding.errors(findings)] == ["coreos.units[900].content"]
