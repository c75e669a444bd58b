"""``phone_home``: report to a URL that the node is up.

Sends its host keys and names as cloud-init does (a POST of a form)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from cloudconfig.node import manifest
from cloudconfig.node.rooted import Root
from cloudconfig.text.stages import PHONE_FILE
from terminal import Failure, record

ANSWER_S = 20.0
PAUSE_S = 3.0


def form(names: list[str], system: Path = Path("/")) -> dict[str, str]:
    """The values of ``names``; a missing one is ``N/A``, as in cloud-init."""
    root = Root(str(system))
    try:
        instance = manifest.read(root).instance_id
    finally:
        root.close()
    hostname = socket.gethostname()
    values = {"instance_id": instance, "hostname": hostname, "fqdn": socket.getfqdn(hostname)}
    for type_ in ("rsa", "ecdsa", "ed25519"):
        try:
            values[f"pub_key_{type_}"] = (
                (system / f"etc/ssh/ssh_host_{type_}_key.pub").read_text("utf-8", "replace").strip()
            )
        except OSError:
            continue
    return {name: values.get(name) or "N/A" for name in names}


def home(system: Path = Path("/"), sleep: Callable[[float], None] = time.sleep) -> None:
    """Send it, as often as ``tries`` allows. Raises Failure if no try succeeded."""
    import http.client
    import urllib.error
    import urllib.parse
    import urllib.request

    wanted = record.parse((system / PHONE_FILE.lstrip("/")).read_text("utf-8"))
    data = urllib.parse.urlencode(form(wanted["post"], system)).encode()
    trouble = ""
    for attempt in range(wanted["tries"]):
        if attempt:
            sleep(PAUSE_S)
        try:
            # S310: http(s) by stages.phone_home().
            request = urllib.request.Request(wanted["url"], data, {"User-Agent": "flotilla-cloudconfig"})  # noqa: S310
            with urllib.request.urlopen(request, timeout=ANSWER_S):  # noqa: S310
                return
        except urllib.error.HTTPError as error:
            trouble = f"HTTP status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            trouble = str(getattr(error, "reason", None) or error) or type(error).__name__
    raise Failure(f"no answer after {wanted['tries']} tries: {trouble}", where="phone_home")
