"""Another computer, reached by ssh: this one, with another home, its own ssh server, and its own libvirt."""

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.machines.process import Process
from tests.cluster.ordinary import USER, ordinarily, write_program
from tests.eventually import eventually
from tests.ports import free_ports

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host_key
AuthorizedKeysFile {home}/key.pub
PidFile {home}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv HOME={home} XDG_CACHE_HOME={home}/c XDG_STATE_HOME={home}/s XDG_CONFIG_HOME={home}/f XDG_RUNTIME_DIR={home}/r PATH={home}/bin:/usr/bin:/bin
"""


class FarHost:
    """A computer whose user's files are all in ``home``, and which is reached as libvirt's ``uri``."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        user = USER if os.geteuid() == 0 else getpass.getuser()
        self.uri = f"qemu+ssh://{user}@127.0.0.1:{port}/session?command={home}/ssh&keyfile={home}/key"

    def daemons(self) -> list[Process]:
        """libvirt's, that were started there."""
        found = (Process.of(int(path.read_text())) for path in self.home.rglob("*d.pid"))
        return [process for process in found if process is not None]


@contextmanager
def far_host() -> Iterator[FarHost]:
    """It is switched on, and off afterwards."""
    home = Path(tempfile.mkdtemp(prefix="far-"))
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
    (home / "r").mkdir(mode=0o700)
    (home / "bin").mkdir()  # first in its PATH
    (port,) = free_ports(1)
    known, public = home / "known_hosts", (home / "host_key.pub").read_text()
    known.write_text(f"[127.0.0.1]:{port} {public}")
    write_program(home / "ssh", f'exec ssh -F none -o UserKnownHostsFile="{known}" -o IdentityAgent=none "$@"\n')
    (home / "sshd_config").write_text(CONFIG.format(home=home, port=port))
    host = FarHost(home, port)
    log = home / "sshd.log"
    server = subprocess.Popen(ordinarily(home, "/usr/sbin/sshd", "-D", "-f", str(home / "sshd_config"), "-E", str(log)))
    try:
        eventually(lambda: (home / "sshd.pid").exists() or server.poll() is not None)
        assert server.poll() is None, f"no ssh server: {log.read_text()}"
        yield host
    finally:
        server.terminate()
        server.wait()
        for process in host.daemons():
            process.end()
        shutil.rmtree(home)
