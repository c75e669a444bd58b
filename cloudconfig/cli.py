"""The command ``cloudconfig``. Each subcommand imports only what it needs: on a node every module costs boot time."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from terminal import Failure, Parser, UsageFailure, command

if TYPE_CHECKING:
    from cloudconfig.text.finding import Finding

NODE_CODE = "/usr/lib/flotilla"  # where an image has this very code

_EPILOG = """\
examples:
  cloudconfig validate user-data.yaml            what is wrong with it, with lines
  cloudconfig render node.yaml.j2 --vars cluster.yaml --node node-1 -o node-1.yaml
  cloudconfig status --wait                      on a node: how it went
"""
_VALIDATE = """\
examples:
  cloudconfig validate user-data.yaml
  cloudconfig validate --image build/mine user-data.yaml
  cloudconfig validate user-data.yaml --network-config network-config
  cloudconfig validate --strict --json user-data.yaml | jq '.findings[].line'
  cloudconfig render node.yaml.j2 --vars v.yaml | cloudconfig validate -
exit codes: 0 clean or warnings only, 1 errors (with --strict also warnings), 2 wrong usage
"""
_FACTS = """\
examples:
  cloudconfig facts build/qemu > cloudconfig/check/image.json  after a change of image/
  cloudconfig facts build/mine > mine.json; cloudconfig validate --image mine.json user-data.yaml
"""
_SCHEMA = """\
examples:
  cloudconfig schema > user-data.schema.json
  # yaml-language-server: $schema=user-data.schema.json     as the second line of user-data, for editors
"""
_RENDER = """\
examples:
  cloudconfig render node.yaml.j2 --vars cluster.yaml --node node-1 -o node-1.yaml
  cloudconfig render node.yaml.j2 --set node.name=n1 --set node.private_ipv4=10.0.0.5
  cloudconfig render default --vars cluster.yaml --node node-1       the template of `cluster up`
  cloudconfig render node.yaml.j2 --vars cluster.yaml --node node-1 --trust lab -o node-1.yaml
"""
_APPLY = """\
examples:
  sudo cloudconfig apply --datasource auto       as at boot
  sudo cloudconfig apply --datasource file:/root/user-data.yaml
  cloudconfig apply --datasource file:user-data.yaml --root /tmp/tree     write into a folder, run nothing
"""
_STATUS = """\
examples:
  cloudconfig status
  cloudconfig status --wait --timeout 60 --json
exit codes: 0 done or nothing to do, 1 degraded, failed or not ended
"""


def main() -> int:
    """Entry point of the console script."""
    return command("cloudconfig", run)


def run(arguments: Sequence[str]) -> int:
    """Parse ``arguments`` and run the subcommand; returns the exit code. Raises Failure."""
    options = new_parser().parse_args(arguments)
    return int(options.run(options))


def new_parser() -> Parser:
    """What the command takes."""
    parser = Parser(prog="cloudconfig", description="Check, render and apply user-data.", epilog=_EPILOG)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    sub = commands.add_parser("validate", help="check user-data", epilog=_VALIDATE)
    sub.add_argument("file", metavar="FILE", help="user-data; - is standard input")
    sub.add_argument("--strict", action="store_true", help="warnings are errors")
    sub.add_argument("--json", action="store_true", help="findings as JSON on standard output")
    sub.add_argument(
        "--image",
        metavar="DIR",
        help="the image that it is for: the folder of a build, or a file of 'facts' (default: ours; on a node its own)",
    )
    sub.add_argument(
        "--network-config", metavar="FILE", help="NoCloud's network-config that goes with it: check it, too"
    )
    sub.set_defaults(run=_validate)

    sub = commands.add_parser("facts", help="what an image has", epilog=_FACTS)
    sub.add_argument("folder", metavar="DIR", help="what 'osbuild image' made")
    sub.set_defaults(run=_facts)

    sub = commands.add_parser("schema", help="the JSON schema of user-data", epilog=_SCHEMA)
    sub.set_defaults(run=_schema)

    sub = commands.add_parser("render", help="template + variables -> user-data", epilog=_RENDER)
    sub.add_argument("template", metavar="TEMPLATE", help="a jinja2 file; 'default' is the one of `cluster up`")
    sub.add_argument(
        "--vars", metavar="FILE", action="append", default=[], help="YAML or JSON with variables; repeatable"
    )
    sub.add_argument(
        "--set", metavar="K=V", action="append", default=[], help="one variable, dots go deeper; repeatable"
    )
    sub.add_argument("--node", metavar="NAME", help="the entry of the list `nodes` that becomes `node`")
    sub.add_argument(
        "--trust", metavar="DIR", help="new certificates of this trust folder, for the template as `trust.files`"
    )
    sub.add_argument("-o", "--output", metavar="OUT", help="write to OUT (mode 0600) instead of standard output")
    sub.set_defaults(run=_render)

    sub = commands.add_parser("apply", help="on a node: do it", epilog=_APPLY)
    sub.add_argument(
        "--datasource",
        metavar="NAME",
        default="auto",
        help="auto (default), ec2, installed, nocloud, openstack, file:PATH, none; several with commas: the first "
        "that is there",
    )
    sub.add_argument("--root", metavar="DIR", default="/", help="a folder to write into instead of the running system")
    sub.add_argument(
        "--early", action="store_true", help="there is no network yet: what needs one is done by a unit that is queued"
    )
    sub.set_defaults(run=_apply)

    sub = commands.add_parser("status", help="on a node: how the last apply went", epilog=_STATUS)
    sub.add_argument("--wait", action="store_true", help="until it has ended")
    sub.add_argument("--timeout", metavar="S", type=float, default=300.0, help="seconds to wait (default 300)")
    sub.add_argument("--json", action="store_true", help="the status file on standard output")
    sub.set_defaults(run=_status)
    for name, run, text in (
        ("environment", _environment, "put the addresses of this machine into /etc/environment"),
        ("fetch", _fetch, "bring the files of write_files that have a source"),
        ("phone-home", _phone_home, "report to the URL of phone_home that the node is up"),
    ):
        commands.add_parser(name, help=f"on a node, a step of a unit: {text}").set_defaults(run=run)
    return parser


def _validate(options: argparse.Namespace) -> int:
    from cloudconfig.check import image, validate
    from cloudconfig.text import finding

    if options.file == options.network_config == "-":
        raise UsageFailure("standard input is one file", where="--network-config -", hint="name the other")
    facts = image.load(Path(options.image)) if options.image else None
    found = [(options.file, one) for one in validate.validate(_contents(options.file), facts)]
    if options.network_config:
        from cloudconfig.plan import network

        found += [(options.network_config, one) for one in network.read(_contents(options.network_config))[1]]
    if options.strict:
        found = [(name, *finding.strict([one])) for name, one in found]
    wrong = finding.errors([one for _name, one in found])
    if options.json:
        value = {"v": 1, "valid": not wrong, "findings": [{"file": name, **one.as_json()} for name, one in found]}
        print(json.dumps(value, indent=1))
    else:
        for name, one in found:
            print(one.render("<stdin>" if name == "-" else name))
    return 1 if wrong else 0


def _contents(name: str) -> bytes:
    """Of the file ``name``; ``-`` is standard input. Raises Failure."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=name) from error


def _facts(options: argparse.Namespace) -> int:
    from cloudconfig.check import image

    sys.stdout.write(image.load(Path(options.folder)).dump())
    return 0


def _schema(_options: argparse.Namespace) -> int:
    from cloudconfig.host import jsonschema

    print(jsonschema.text(), end="")
    return 0


def _environment(_options: argparse.Namespace) -> int:
    from cloudconfig.node import apply, machine

    apply.environment("/", machine.Live())
    return 0


def _fetch(_options: argparse.Namespace) -> int:
    from cloudconfig.node import downloads
    from cloudconfig.node.rooted import Root

    root = Root("/")
    try:
        troubles = downloads.fetch(root)
    finally:
        root.close()
    for trouble in troubles:
        print(f"cloudconfig: error: {trouble}", file=sys.stderr)
    return 1 if troubles else 0


def _phone_home(_options: argparse.Namespace) -> int:
    from cloudconfig.node import phone

    phone.home()
    return 0


def _render(options: argparse.Namespace) -> int:
    from cloudconfig.host import render

    if options.trust and options.output is None:
        raise UsageFailure("private keys are not printed", where="--trust", hint="name a file: -o OUT")
    variables: dict[str, object] = {}
    for path in options.vars:
        variables |= render.load_variables(Path(path))
    if options.node:
        render.choose_node(variables, options.node)
    for assignment in options.set:
        render.set_variable(variables, assignment)
    try:
        template = (
            render.default_template() if options.template == "default" else Path(options.template).read_text("utf-8")
        )
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=options.template) from error
    except UnicodeDecodeError as error:
        raise Failure("is not UTF-8 text", where=options.template) from error
    warnings: list[Finding] = []

    def rendered(values: Mapping[str, object]) -> str:
        warnings.clear()
        return render.render(template, values, warnings.append)

    try:
        if options.trust:
            from cloudconfig.host import certificates

            text = certificates.rendered(Path(options.trust), variables, rendered)
        else:
            text = rendered(variables)
    except render.RenderError as error:
        for one in error.findings:
            print(one.render("rendered"), file=sys.stderr)
        raise Failure("cannot be rendered", where=options.template) from error
    for one in warnings:
        print(one.render("rendered"), file=sys.stderr)
    if options.output is None:
        sys.stdout.write(text)
    else:
        _write(Path(options.output), text)
    return 0


def _write(path: Path, text: str) -> None:
    """Write the file atomically, readable by its owner only: user-data may contain secrets."""
    if not path.name:
        raise UsageFailure(
            "names no file", where=f"--output '{path}'", hint="leave it away to write to standard output"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Failure(f"cannot be written: {error.strerror}", where=str(path)) from error


def _apply(options: argparse.Namespace) -> int:
    from cloudconfig.node import apply, datasource, machine

    datasource.check(options.datasource)
    live = options.root == "/"
    if live and os.geteuid() != 0:
        raise Failure("only root may apply user-data to this machine", hint="sudo cloudconfig apply, or --root DIR")
    if live and not Path(NODE_CODE).is_dir():
        # Also installed on computers that run clusters: their host name, keys and files must not be replaced by
        # mistake.
        raise Failure("this machine is no node", where=NODE_CODE, hint="--root DIR writes into a folder")
    command_line = Path("/proc/cmdline").read_text("utf-8", "replace") if options.datasource == "auto" else ""
    name = datasource.chosen(options.datasource, command_line)
    target = machine.Live() if live else machine.Folder()
    outcome = apply.apply(name, options.root, target, online=not options.early)
    for line in outcome.lines():
        # Shown on the console, where many programs write: each line names its program.
        print(f"cloudconfig: {line}", flush=True)
    return 0 if outcome.good else 1


def _status(options: argparse.Namespace) -> int:
    from cloudconfig.node import status

    if not 0 <= options.timeout < float("inf"):  # nor is nan
        raise UsageFailure("not a number of seconds", where=f"--timeout {options.timeout:g}", hint="such as 60")
    found = status.wait(timeout_s=options.timeout) if options.wait else status.read()
    if found is None:
        raise Failure("no apply has ended since boot", where=status.PATH, hint="cloudconfig status --wait")
    if options.json:
        sys.stdout.write(found.as_json())
    else:
        print("\n".join(found.lines()))
    return 0 if found.good else 1
