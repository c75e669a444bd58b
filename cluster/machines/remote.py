"""Another computer that runs guests.

One ssh connection to it carries the guests' cables, their ssh and shell ports and their consoles.

There, for the user who logs in::

    $XDG_CACHE_HOME/flotilla/files/SHA256           images' files, sent once each
    $XDG_STATE_HOME/flotilla/guests/NAME-HASH/      one cluster: discovery, its socket for our discovery service
        node-1/state.img, cidata.iso, console.log   as here
        node-1/net, node-1/shell                    sockets: the cable to our switch, the root shell

The connection is OpenSSH's multiplexing master (ssh_config(5), ControlMaster); it dies with us,
and with it all that it carries.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import re
import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from cluster.machines.process import dies_with_us
from cluster.machines.qemu import PROGRAMS
from cluster.model import logs
from cluster.model.connection_uri import Place
from cluster.model.layout import SOCKET_PATH_BYTES_MAX
from cluster.model.machine import Machine
from media.sparse import data_ranges
from terminal import Failure

FORWARD = Path(__file__).with_name("forward.py")
LOGIN_DEADLINE_S = 30.0
COMMAND_DEADLINE_S = 60.0
COPY_DEADLINE_S = 3600.0
"""For sending one file: an image's root has some 100 MB, and some lines are slow."""
MASTER_OPTIONS = (
    *("-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-o", "BatchMode=yes"),
    *("-o", "StreamLocalBindUnlink=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"),
)
PREPARE = """\
set -eu
umask 077
files=${XDG_CACHE_HOME:-$HOME/.cache}/flotilla/files
guests=${XDG_STATE_HOME:-$HOME/.local/state}/flotilla/guests/$1
mkdir -p "$files" "$guests"
printf '%s\\n' "$files" "$guests" "$(command -v python3 || true)" "$(command -v "$2" || true)"
"""
RECEIVE = """\
set -eu
part=$2.$$
trap 'rm -f "$part"' EXIT
cat >"$part"
echo "$1  $part" | sha256sum --check --status
chmod "$3" "$part"
mv "$part" "$2"
"""
"""$1: what its SHA-256 must be, $2: the file to make, $3: its mode."""
LINK = 'while [ $# -gt 0 ]; do ln -f "$1" "$2" || cp "$1" "$2"; shift 2; done'
FORWARDED = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s")


class Remote:
    """The way to ``place``. All of it belongs to one asyncio loop; methods raise :class:`Failure`."""

    def __init__(
        self, place: Place, name: str, runtime: Path, index: int, *, discovery_port: int, architecture: str
    ) -> None:
        """``name`` is the cluster's folder there.

        ``runtime`` holds this computer's sockets, ``index`` distinguishes places.
        """
        self.host = place.host
        self.qemu, self.guests = Path(), Path()
        self._place, self._name, self._architecture = place, name, architecture
        self._socket = runtime / f"ssh-{index}"
        # Without a master ssh would log in again for each command; this makes it fail instead.
        self._through = ("-S", str(self._socket), "-o", "ProxyCommand=false", "-T")
        self._discovery_port = discovery_port
        self._master: asyncio.subprocess.Process | None = None
        self._files, self._python = Path(), ""
        self._forward = Path()
        self._carried: set[str] = set()
        self._ports: dict[int, str] = {}
        self._consoles: dict[int, asyncio.subprocess.Process] = {}

    async def open(self) -> None:
        """Log in, and find out where things are there."""
        if self._master is not None and self._master.returncode is None:
            return
        self._socket.unlink(missing_ok=True)
        self._carried.clear()
        self._ports.clear()
        self._master = await self._spawn(*MASTER_OPTIONS, "-S", str(self._socket), "-N", "-T", self.host)
        try:
            await self._wait_for_login(self._master)
            await self._look_around()
        except BaseException:
            await self.close()
            raise

    async def wait(self) -> None:
        """Return when the connection is no more."""
        if self._master is not None:
            await self._master.wait()

    async def _look_around(self) -> None:
        program = PROGRAMS[self._architecture]
        files, guests, python, found = (await self.run(PREPARE, self._name, program)).decode().split("\n")[:4]
        self._files, self.guests, self._python, self.qemu = Path(files), Path(guests), python, Path(found)
        for name, path in (("python3", python), (program, found)):
            if not path:
                raise Failure(
                    f"there is no {name} on {self.host}",
                    where=self._place.uri,
                    hint="docs/libvirt.md lists what is needed there",
                )
        if len(os.fsencode(self.guests / "node-99" / "shell")) > SOCKET_PATH_BYTES_MAX:
            hint = "let XDG_STATE_HOME be a short folder there"
            raise Failure(f"{guests} is too long a path for sockets", where=self._place.uri, hint=hint)

    async def _wait_for_login(self, master: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + LOGIN_DEADLINE_S
        while not self._socket.exists():
            if master.returncode is not None or time.monotonic() > deadline:
                if master.returncode is None:
                    master.kill()
                assert master.stderr is not None
                said = (await master.stderr.read()).decode(errors="replace").strip().splitlines()[-1:]
                login = shlex.join([*self._place.ssh, self.host])
                raise Failure(
                    f"no ssh to {self.host}: {said[0] if said else 'no message'}",
                    where=self._place.uri,
                    hint=f"'{login}' must log in without a question",
                )
            await asyncio.sleep(0.02)

    async def run(
        self, script: str, *arguments: str, stdin: bytes | int = b"", deadline_s: float = COMMAND_DEADLINE_S
    ) -> bytes:
        """What the shell ``script`` prints there, with ``arguments`` as $1, $2 ..., fed with bytes or an open file."""
        words = shlex.join(["sh", "-c", script, "flotilla", *arguments])
        feed = asyncio.subprocess.PIPE if isinstance(stdin, bytes) else stdin
        process = await self._spawn(*self._through, self.host, words, stdin=feed, keep=True)
        try:
            async with asyncio.timeout(deadline_s):
                out, err = await process.communicate(stdin if isinstance(stdin, bytes) else None)
        except TimeoutError as error:
            raise Failure(f"{self.host} did not answer within {deadline_s:.0f} s", where=self._place.uri) from error
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode != 0:
            said = err.decode(errors="replace").strip().splitlines()[-1:]
            raise Failure(
                f"{self.host} says: {said[0] if said else f'exit code {process.returncode}'}", where=self._place.uri
            )
        return out

    async def install_emulator(self, text: str) -> Path:
        """Make the program ``text`` there; returns where it is."""
        return await self._install(text.encode(), "755")

    async def bring(self, machine: Machine) -> Machine:
        """Bring all that ``machine`` needs there; returns the machine as that computer sees it."""
        if not self._forward.name:
            self._forward = await self._install(FORWARD.read_bytes(), "644")
        folder = self.guests / f"node-{machine.number}"
        image = self.guests / "image"
        await self.run('umask 077; mkdir -p "$@"', str(folder), str(image))
        await self._send([machine.image / name for name in ("vmlinuz", "initrd.img", "root.img")], image)
        await self._copy(machine.cidata, folder / "cidata.iso", "600")
        await self._make_disk(machine.state_disk, folder / "state.img")
        await self._carry("-R", folder / "net", str(machine.net_socket))
        await self._carry("-R", self.guests / "discovery", f"127.0.0.1:{self._discovery_port}")
        return dataclasses.replace(
            machine,
            image=image,
            state_disk=folder / "state.img",
            cidata=folder / "cidata.iso",
            console=folder / "console.log",
            net_socket=folder / "net",
            shell_socket=folder / "shell",
            ssh_port=0,  # any that is free there: attach finds out which
            forward=(self._python, "-I", "-S", str(self._forward), str(self.guests / "discovery")),
        )

    async def attach(self, machine: Machine, usage: str) -> None:
        """Carry ``machine``'s ports and console to where they are expected here.

        ``usage`` is its QEMU's answer to ``info usernet``.
        """
        found = FORWARDED.search(usage)
        if found is None:
            raise Failure(f"QEMU of node-{machine.number} forwards no port for ssh", where=self._place.uri)
        number, folder = machine.number, self.guests / f"node-{machine.number}"
        wanted = f"127.0.0.1:{machine.ssh_port}:127.0.0.1:{found[1]}"
        if former := self._ports.pop(number, None):
            await self._control("cancel", "-L", former)
        await self._control("forward", "-L", wanted)
        self._ports[number] = wanted
        await self._carry("-L", machine.shell_socket, str(folder / "shell"))
        await self._follow(number, folder / "console.log", machine.console)

    async def _follow(self, number: int, there: Path, here: Path) -> None:
        """Keep the console's log here equal to the one there, from its first line."""
        former = self._consoles.get(number)
        if former is not None and former.returncode is None:
            return
        with logs.fresh(here) as file:
            words = shlex.join(["tail", "-c", "+1", "-F", str(there)])
            self._consoles[number] = await self._spawn(*self._through, self.host, words, stdout=file.fileno())

    async def remove(self) -> None:
        """Remove the cluster's folder there; the images' files stay for the next one."""
        await self.run('rm -rf "$1"', str(self.guests))

    async def close(self) -> None:
        """Hang up."""
        for process in (*self._consoles.values(), self._master):
            if process is not None and process.returncode is None:
                process.terminate()
                await process.wait()
        self._consoles.clear()
        self._master = None
        self._socket.unlink(missing_ok=True)

    async def _carry(self, direction: str, socket: Path, target: str) -> None:
        """Forward connections to ``socket`` to ``target`` on the other side, once.

        With "-R" the socket is there, with "-L" here.
        """
        if str(socket) in self._carried:
            return
        if direction == "-R":
            await self.run('rm -f "$1"', str(socket))  # ssh servers do not replace one that a former connection left
        else:
            socket.unlink(missing_ok=True)
        await self._control("forward", direction, f"{socket}:{target}")
        self._carried.add(str(socket))

    async def _control(self, order: str, *words: str) -> None:
        process = await self._spawn("-S", str(self._socket), "-O", order, *words, self.host, keep=True)
        out, err = await process.communicate()
        if process.returncode != 0 and order != "cancel":
            said = (err or out).decode(errors="replace").strip().splitlines()[-1:]
            hint = "its ssh server must allow forwarding (sshd_config: AllowTcpForwarding, AllowStreamLocalForwarding)"
            raise Failure(
                f"ssh does not carry {words[-1]}: {said[0] if said else 'no word why'}",
                where=self._place.uri,
                hint=hint,
            )

    async def _send(self, paths: Sequence[Path], folder: Path) -> None:
        """The files ``paths`` in the ``folder`` there, by way of the cache, to which missing files are sent."""
        digests = await asyncio.to_thread(lambda: [_digest(path) for path in paths])
        missing = await self._missing(digests)
        for path, digest in zip(paths, digests, strict=True):
            if digest in missing:
                with path.open("rb") as file:
                    target = str(self._files / digest)
                    await self.run(RECEIVE, digest, target, "444", stdin=file.fileno(), deadline_s=COPY_DEADLINE_S)
        pairs = [
            str(word)
            for path, digest in zip(paths, digests, strict=True)
            for word in (self._files / digest, folder / path.name)
        ]
        await self.run(LINK, *pairs)

    async def _missing(self, digests: Sequence[str]) -> set[str]:
        """Those of ``digests`` that the cache there lacks."""
        script = 'cd "$1"; shift; for name do test -e "$name" || echo "$name"; done'
        return set((await self.run(script, str(self._files), *digests)).decode().split())

    async def _install(self, content: bytes, mode: str) -> Path:
        digest = hashlib.sha256(content).hexdigest()
        target = self._files / digest
        if await self._missing([digest]):
            await self.run(RECEIVE, digest, str(target), mode, stdin=content)
        return target

    async def _copy(self, path: Path, target: Path, mode: str) -> None:
        content = await asyncio.to_thread(path.read_bytes)
        await self.run(RECEIVE, hashlib.sha256(content).hexdigest(), str(target), mode, stdin=content)

    async def _make_disk(self, path: Path, target: Path) -> None:
        """A copy of the sparse file ``path``, unless there is one: then it is the node's disk, and newer than ours."""
        if await self.run('! test -e "$1" || echo there', str(target)):
            return
        part = f"{target}.part"
        await self.run('umask 077; rm -f "$1"; truncate -s "$2" "$1"', part, str(path.stat().st_size))
        for offset, content in await asyncio.to_thread(_content, path):
            script = 'dd of="$1" oflag=seek_bytes seek="$2" conv=notrunc bs=1M status=none'
            await self.run(script, part, str(offset), stdin=content)
        await self.run('mv "$1" "$2"', part, str(target))

    async def _spawn(
        self,
        *words: str,
        stdin: int = asyncio.subprocess.DEVNULL,
        stdout: int = asyncio.subprocess.PIPE,
        keep: bool = False,
    ) -> asyncio.subprocess.Process:
        """ssh with ``words``, which dies with us; ``keep``: its output is read."""
        return await asyncio.create_subprocess_exec(
            *dies_with_us([*self._place.ssh, *words]),
            stdin=stdin,
            stdout=stdout if keep or stdout != asyncio.subprocess.PIPE else asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(path: Path) -> Iterable[tuple[int, bytes]]:
    """Each stretch of ``path`` that is no hole: where it begins, and its bytes."""
    with path.open("rb") as file:
        return [
            (begin, os.pread(file.fileno(), end - begin, begin))
            for begin, end in data_ranges(file.fileno(), 0, path.stat().st_size)
        ]
