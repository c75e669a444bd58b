"""HTTP on unix sockets in the cluster's own folder.

Other users of this computer cannot reach them; nodes come through the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from webserver.message import Request, Response
from webserver.server import Site


def node_site(handle: Callable[[Request], Response], methods: Collection[str], say: Callable[[str], None]) -> Site:
    """What serves nodes: one request a connection, whose first line names the node.

    ``say`` takes lines for the supervisor's log.
    """
    return Site(
        handle=handle,
        methods=methods,
        log=lambda peer, line: say(f"{peer or 'a node'}: {line}"),
        name="flotilla",
        once=True,
        proxied=True,
    )
