"""The cluster's container registry.

It is Debian's ``docker-registry``, on a unix socket, with its data in the cluster's folder.

It starts with the first push (:mod:`cluster.services.push`) and is found by nodes as ``registry:5000``.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cluster.machines.process import dies_with_us
from cluster.model import logs
from terminal import Failure

PROGRAM = "docker-registry"
START_DEADLINE_S = 20.0
HINT = (
    "install Debian's package docker-registry (its service, which listens on port 5000 of every address, is not needed:"
    " systemctl disable --now docker-registry), or let FLOTILLA_REGISTRY name the program"
)


def find(environment: Mapping[str, str] | None = None) -> Path:
    """The registry's program. Raises :class:`Failure` with what to install."""
    env = os.environ if environment is None else environment
    wanted = env.get("FLOTILLA_REGISTRY") or PROGRAM
    found = shutil.which(wanted, path=env.get("PATH"))
    if found is None:
        raise Failure(f"the cluster's registry needs the program {wanted!r}", hint=HINT)
    return Path(found).absolute()


def configuration(data: Path, socket: Path) -> str:
    """Its settings, as JSON, which is YAML: see docker-registry's configuration.md."""
    return json.dumps(
        {
            "version": 0.1,
            "log": {"accesslog": {"disabled": True}, "level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(data)},
                "delete": {"enabled": True},
                # Nothing is left of an upload that ended early but its part, and the cluster does not live that long.
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            # It would make one by itself, and warn about it.
            "http": {"net": "unix", "addr": str(socket), "secret": secrets.token_hex(16)},
        },
        indent=1,
    )


class Registry:
    """The registry's process. ``changed`` is called when there is another one."""

    def __init__(self, folder: Path, socket: Path, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        """``folder`` holds data, settings and log; it is made by the first start."""
        self.process: asyncio.subprocess.Process | None = None
        self.folder = folder
        self._socket = socket
        self._changed, self._say = changed, say
        self._watcher: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def log(self) -> Path:
        """Its log."""
        return self.folder / "log"

    @property
    def used(self) -> bool:
        """Whether anything was ever pushed."""
        return self.folder.exists()

    async def start(self, program: Path) -> None:
        """Start it unless it runs; returns when it listens. Raises :class:`Failure` with its own message."""
        async with self._starting:
            if self.process is None:
                await self._start(program)

    async def _start(self, program: Path) -> None:
        self.folder.mkdir(exist_ok=True)
        self._socket.unlink(missing_ok=True)
        settings, log_path = self.folder / "config.yml", self.log
        settings.write_text(configuration(self.folder / "data", self._socket) + "\n")
        settings.chmod(0o600)
        try:
            with logs.fresh(log_path) as log:
                self.process = await asyncio.create_subprocess_exec(
                    *dies_with_us([str(program), "serve", str(settings)]),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # It gets only those variables of our environment that it needs: variables can set options, too.
                    env={"PATH": os.environ.get("PATH", os.defpath), "OTEL_TRACES_EXPORTER": "none"},
                )
        except OSError as error:
            raise Failure(f"the registry cannot be started: {error}") from error
        self._changed()
        process = self.process
        self._watcher = asyncio.create_task(self._watch(process))
        deadline = time.monotonic() + START_DEADLINE_S
        while not await self._listens():
            if self.process is not process or time.monotonic() > deadline:
                said = log_path.read_text(errors="replace").strip().splitlines()
                await self.stop()
                raise Failure(f"the registry did not start: {said[-1] if said else 'no word'}", where=str(log_path))
            await asyncio.sleep(0.05)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return False
        writer.close()
        return True

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self.process = None
        self._say(f"the registry ended with {code}")
        self._changed()

    async def stop(self) -> None:
        """End it."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()  # what was pushed is on disk before the push is answered
        if self._watcher is not None:
            await self._watcher
            self._watcher = None
        self._socket.unlink(missing_ok=True)
