"""Template and variables -> the user-data of one node. Runs on the host only.

Two steps. First jinja2, strict (an undefined variable is an error) and in a sandbox, since templates are shared. Then
coreos-cloudinit's four variables ``$private_ipv4``, ``$public_ipv4``, ``$private_ipv6``, ``$public_ipv6``, also with
braces, on word boundaries; ``\\$private_ipv4`` stays, without the backslash. Their values are ``node.private_ipv4`` and
so on, or variables of that name; one that is missing or empty is an error with its line, since ``http://:2380`` is
useless. The result is validated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import yaml

from cloudconfig.check import validate
from cloudconfig.text import addresses, finding, formats
from terminal import Failure

_FILENAME = "<template>"


class RenderError(Failure):
    """A template that cannot be rendered, or renders to bad user-data (then ``findings`` says what)."""

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        findings: Sequence[finding.Finding] = (),
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.findings = tuple(findings)


def default_template() -> str:
    """The template that ``cluster up`` uses; docs/cloudconfig.md lists its variables."""
    return (Path(__file__).parent / "templates" / "node.yaml.j2").read_text(encoding="utf-8")


def render(
    template_text: str, variables: Mapping[str, Any], warn: Callable[[finding.Finding], None] = lambda _: None
) -> str:
    """User-data text, substituted and valid; ``warn`` gets each warning. Raises RenderError."""
    # The line that marks it as a template on a node is no part of the result.
    template_text = formats.JINJA_LINE.sub("{#- jinja #}\n", template_text)
    text = substitute(expand(template_text, variables), addresses_of(variables))
    found = validate.validate(text.encode())
    wrong = finding.errors(found)
    if wrong:
        first = wrong[0]
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise RenderError(
            f"{first.path}: {first.message}{more}" if first.path else first.message + more,
            where=f"rendered line {first.line}",
            hint=first.hint or None,
            findings=wrong,
        )
    for one in found:
        warn(one)
    return text


def expand(template_text: str, variables: Mapping[str, Any]) -> str:
    """The jinja2 step alone. Raises RenderError with the template's line."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    try:
        return environment.from_string(template_text).render(variables)
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(error.message or "not a template", where=f"template line {error.lineno}") from None
    except jinja2.UndefinedError as error:
        hint = "give it with --set or --vars"
        raise RenderError(error.message or "a variable is not set", where=_line(error), hint=hint) from None
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        RecursionError,
        MemoryError,
    ) as error:
        # An expression of the template raised it: an error in the template, reported with the template's line.
        raise RenderError(
            f"the template fails: {str(error) or 'it needs too much memory'}", where=_line(error)
        ) from None


def substitute(text: str, values: Mapping[str, str]) -> str:
    """The ``$private_ipv4`` step alone: one pass, so that a value is never substituted again. Raises RenderError."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        name = match[2] or match[3]
        if not values.get(name):
            line = text.count("\n", 0, match.start()) + 1
            raise RenderError(
                f"${name} has no value",
                where=f"rendered line {line}",
                hint=f"set node.{name}, or write \\${name} for the text itself",
            )
        return values[name]

    return addresses.VARIABLE.sub(value, text)


def load_variables(path: Path) -> dict[str, Any]:
    """Variables of a YAML (so also JSON) file: a mapping. Raises Failure."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or !!timestamp 2001-99-99
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise Failure(
            f"not valid YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}", where=where
        ) from None
    if not isinstance(value, dict):
        raise Failure("must be a mapping of names to values", where=str(path))
    return {str(key): inner for key, inner in value.items()}


def set_variable(variables: dict[str, Any], assignment: str) -> None:
    """Put ``a.b=value`` (a YAML value) into ``variables``. Raises Failure."""
    name, equals, text = assignment.partition("=")
    pieces = name.split(".")
    if not equals or not all(pieces):
        raise Failure(
            f"{name!r} is no assignment", where="--set", hint="write --set name=value or --set node.name=value"
        )
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise Failure("the value is not valid YAML", where=f"--set {name}", hint="quote it") from None
    target = variables
    for piece in pieces[:-1]:
        inner = target.setdefault(piece, {})
        if not isinstance(inner, dict):
            raise Failure(f"{piece} is a value, it has nothing inside", where=f"--set {name}")
        target = inner
    target[pieces[-1]] = text if value is None and text else value


def choose_node(variables: dict[str, Any], name: str) -> None:
    """Set ``node`` to the entry called ``name`` of the list ``nodes``. Raises Failure."""
    nodes = variables.get("nodes")
    if not isinstance(nodes, list):
        raise Failure(
            "the variables have no list called nodes", where=f"--node {name}", hint="give it with --vars FILE"
        )
    found = [node for node in nodes if isinstance(node, dict) and node.get("name") == name]
    if len(found) != 1:
        names = ", ".join(str(node.get("name")) for node in nodes if isinstance(node, dict))
        raise Failure(f"{len(found)} nodes have this name", where=f"--node {name}", hint=f"there are: {names}")
    variables["node"] = found[0]


def addresses_of(variables: Mapping[str, Any]) -> dict[str, str]:
    """Of the node, by the names of coreos-cloudinit's variables; an empty text for one that it has not."""
    node = variables.get("node")
    own = node if isinstance(node, Mapping) else {}
    return {name: str(own.get(name) or variables.get(name) or "") for name in addresses.NAMES}


def _line(error: BaseException) -> str:
    """The template's line in a traceback that jinja2 has mapped back to it."""
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == _FILENAME:
            line = frame.tb_lineno
        frame = frame.tb_next
    return f"template line {line}" if line else "template"
