"""An ordinary user: libvirt's session and embedded drivers are for no other user, and tests may run as root.

Root becomes one in namespaces of its own (user_namespaces(7)): number 1000, with a home and a shell, and no capability.
The files of the test stay readable and writable, since to the kernel it is still the same user.
"""

import os
import shlex
from pathlib import Path

USER, NUMBER = "tester", 1000


def write_program(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def ordinarily(folder: Path, *command: str) -> list[str]:
    """``command`` as an ordinary user runs it; its passwd(5) is made in ``folder``, where its home is, too."""
    if os.geteuid() != 0:
        return list(command)
    (folder / "passwd").write_text(f"{USER}:x:{NUMBER}:{NUMBER}::{folder}:/bin/sh\nroot:x:0:0::/root:/bin/sh\n")
    enter = f'mount --bind {shlex.quote(str(folder / "passwd"))} /etc/passwd && exec setpriv --inh-caps=-all --ambient-caps=-all -- "$@"'
    namespace = ["unshare", "--user", "--mount", f"--map-user={NUMBER}", f"--map-group={NUMBER}", "--keep-caps"]
    return [*namespace, "sh", "-c", enter, "ordinary", *command]


def ordinary_program(folder: Path, name: str, *command: str) -> Path:
    """A program ``name`` in ``folder`` that is ``command`` run by an ordinary user."""
    return write_program(folder / name, f'exec {shlex.join(ordinarily(folder, *command))} "$@"\n')
