"""A node's certificates in its user-data, as entries of ``write_files``. Runs on the host only.

Templates have them as ``trust.files``. What is in the entries is a secret: it goes into the user-data and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trust
from cloudconfig.host.render import RenderError, addresses_of
from enrolment.files import ownership
from terminal import Failure
from trust.profile import NODE_FILES

_USE: Final = """\
in its write_files:
{% for file in trust.files %}
  - {{ file | tojson }}
{% endfor %}"""


def entries(files: Mapping[str, str]) -> list[dict[str, str]]:
    """Entries of ``write_files`` for :attr:`trust.Certificates.files` of a node."""
    found = []
    for name, text in files.items():
        user, group, mode = ownership(name)
        path = f"{trust.NODE_FOLDER}/{name}"
        found.append({"path": path, "owner": f"{user}:{group}", "permissions": f"{mode:04o}", "content": text})
    return found


def rendered(folder: Path, variables: Mapping[str, Any], render: Callable[[Mapping[str, Any]], str]) -> str:
    """What ``render`` makes of ``variables`` and new certificates of the trust folder ``folder`` for their ``node``.

    It is called twice, first with empty files: a template that does not render, or that has no place for them, has
    nothing issued. Raises Failure.
    """
    node = variables.get("node")
    name = node.get("name") if isinstance(node, Mapping) else None
    if not isinstance(name, str):
        raise Failure("certificates are for a node", hint="--node NAME, or --set node.name=NAME")
    if not (found := _reached_at(variables)):
        raise Failure(
            "the node has no address", where=name, hint="give it one, such as --set node.private_ipv4=10.0.0.1"
        )
    blank = entries(dict.fromkeys(NODE_FILES, ""))
    trial = render({**variables, "trust": {"files": blank}})
    if missing := [one["path"] for one in blank if one["path"] not in trial]:
        raise RenderError("the template has no place for the certificates", where=missing[0], hint=_USE)
    issued = trust.issue_node(folder, name, found)
    try:
        return render({**variables, "trust": {"files": entries(issued.files)}})
    except RenderError as error:  # jinja2's messages have values in them
        message = "the template renders with empty certificates, and not with real ones"
        hint = "let it copy trust.files, and do nothing else with them"
        raise RenderError(message, where=error.where, hint=hint, findings=error.findings) from None


def _reached_at(variables: Mapping[str, Any]) -> Sequence[str]:
    return [address for address in addresses_of(variables).values() if address]
