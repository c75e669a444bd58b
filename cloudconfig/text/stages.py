"""What runs: ``bootcmd`` at each boot before the services; then, once for an instance and after them, ``runcmd``,
``phone_home``, ``final_message`` and ``power_state``, as one unit that nothing waits for.

A command that fails is named in the journal and fails the unit; the ones after it run all the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence

from cloudconfig.text import yamltree
from cloudconfig.text.reader import Fields, Reader, kind
from cloudconfig.text.schema import CloudConfig, Command
from cloudconfig.text.yamltree import Scalar

BOOT_UNIT = "cloudconfig-boot.service"
BOOT_SCRIPT = "/run/cloudconfig/bootcmd"
RUN_SCRIPT = "/run/cloudconfig/runcmd"
FINAL_UNIT = "cloudconfig-final"
# Units that may still be starting when the last step begins; a missing unit does no harm.
FINAL_AFTER = (
    "network.target ssh.service docker.socket cloudconfig-disks.service cloudconfig-fetch.service "
    "cloudconfig-script.service"
)
PHONE_FILE = "/run/cloudconfig/phone-home.json"
_POSTS = ("pub_key_rsa", "pub_key_ecdsa", "pub_key_ed25519", "instance_id", "hostname", "fqdn")
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*")
_MODES = {"poweroff": "poweroff", "reboot": "reboot", "halt": "halt"}
_DELAY = re.compile(r"now|\+?[0-9]{1,5}")
_VARIABLE = re.compile(r"\$\{?(version|timestamp|datasource|uptime)\b\}?", re.IGNORECASE)
_TRIES_MAX = 100

# What cloud-init gives to scripts: a command that runs once, at each boot, or once for an instance.
_PER = """\
cloud_init_per() {
    per=/var/lib/cloudconfig/per-$1-$2; freq=$1; shift 2
    if [ "$freq" = always ]; then "$@"; return; fi
    [ -e "$per" ] || { "$@" && : >"$per"; }
}
"""


def commands(reader: Reader, top: Fields, key: str) -> tuple[Command, ...]:
    """A list of shell texts and of lists of words (a program and its arguments)."""
    found: list[Command] = []
    for path, node in reader.items(top, key):
        reader.mark(path, node)
        if isinstance(node, Scalar) and not node.null and not node.binary and node.text.strip():
            text = node.text
        elif (
            isinstance(node, yamltree.Sequence) and node.items and all(isinstance(item, Scalar) for item in node.items)
        ):
            text = shlex.join(item.text for item in node.items if isinstance(item, Scalar))
        elif isinstance(node, Scalar) and node.null:
            continue
        else:
            reader.error(
                node,
                path,
                f"must be text or a list of words, is {kind(node)}",
                "quote it; a colon and a blank make a mapping",
            )
            continue
        found.append(Command(re.sub(r"^cloud-init-per\b", "cloud_init_per", text), path))
    return tuple(found)


def script(parts: Sequence[Command]) -> str:
    """One shell for all commands: what one sets, the next sees."""
    lines = ["#!/bin/sh", "# Made by cloudconfig of user-data.", _PER + "failed="]
    for part in parts:
        lines += [
            f"# {part.at}",
            part.text.rstrip("\n"),
            f'code=$?; [ $code = 0 ] || failed="$failed {part.at} ($code)"',
        ]
    lines.append('[ -z "$failed" ] || { echo "cloudconfig: failed:$failed" >&2; exit 1; }')
    return "\n".join(lines) + "\n"


def boot_unit() -> str:
    """The unit of bootcmd: sysinit.target, and so every service, comes after it."""
    return (
        "[Unit]\nDescription=bootcmd of user-data\nDefaultDependencies=no\nAfter=cloudconfig.service\n"
        "Before=sysinit.target shutdown.target\n"
        "Conflicts=shutdown.target\n\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh {BOOT_SCRIPT}\nTimeoutStartSec=5min\n"
    )


def final_script(config: CloudConfig) -> str:
    """The last step of ``config``. It waits for the network: runcmd mostly loads something."""
    text = "/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=60 || :\ncode=0\n"
    if config.runcmd:
        # A file of its own: 'exit' in a command ends it and not what comes after, and no command reads the rest as its
        # input.
        text += f"# {_digest(script(config.runcmd))}\n/bin/sh {RUN_SCRIPT} </dev/null || code=$?\n"
    if config.phone_home:
        text += f"# {_digest(config.phone_home)}\n/usr/bin/cloudconfig phone-home || code=1\n"
    if config.final_message:
        text += f"echo {_message(config.final_message)}\n"
    if config.power_state:
        text += config.power_state
    return "#!/bin/sh\n# Made by cloudconfig of user-data.\n" + text + "exit $code\n"


def _digest(text: str) -> str:
    """What makes the last step another one when a file that it uses changes."""
    return hashlib.sha256(text.encode()).hexdigest()


def _message(text: str) -> str:
    """Shell words for a final_message, its variables filled in when it is printed."""
    values = {
        "version": "cloudconfig",
        "timestamp": '"$(date -R)"',
        "datasource": "user-data",
        "uptime": '"$(cut -d" " -f1 /proc/uptime)"',
    }
    words: list[str] = []
    at = 0
    for match in _VARIABLE.finditer(text):
        words += [shlex.quote(text[at : match.start()]), values[match[1].lower()]]
        at = match.end()
    return "".join([*words, shlex.quote(text[at:].rstrip("\n"))])


def phone_home(reader: Reader, top: Fields) -> str:
    """``phone_home`` as JSON: url, tries, post (names)."""
    section = reader.section(top, "phone_home", ("url", "tries", "post"))
    if not section:
        return ""
    path, node = top["phone_home"]
    url = reader.required(section, "url", path, node)
    if url and not _URL.fullmatch(url):
        reader.error(section["url"][1], "phone_home.url", "not a URL (http or https)")
    tries = reader.number(section, "tries", "integer") or "10"
    if not 1 <= int(tries) <= _TRIES_MAX:
        reader.error(section["tries"][1], "phone_home.tries", f"must be 1 to {_TRIES_MAX}")
    posts: tuple[str, ...] = _POSTS
    if "post" in section and not (isinstance(section["post"][1], Scalar) and reader.text(section, "post") == "all"):
        posts = reader.words(section, "post")
        for index, name in enumerate(posts):
            if name not in _POSTS:
                reader.error(
                    section["post"][1],
                    f"phone_home.post[{index}]",
                    "is none of the known words",
                    f"one of: {', '.join(_POSTS)}",
                )
    return json.dumps({"url": url, "tries": int(tries), "post": posts}, sort_keys=True) if url else ""


def power_state(reader: Reader, top: Fields) -> str:
    """``power_state`` as shell text: shut down once the rest is done, if ``condition`` holds."""
    section = reader.section(top, "power_state", ("condition", "delay", "message", "mode", "timeout"))
    if not section:
        return ""
    path, node = top["power_state"]
    reader.required(section, "mode", path, node)
    mode = reader.choice(section, "mode", tuple(_MODES))
    delay = reader.text(section, "delay") or "now"
    if not _DELAY.fullmatch(delay):
        reader.error(section["delay"][1], "power_state.delay", "must be now or +minutes", "for example: '+5'")
        return ""
    if not mode:
        return ""
    message = shlex.quote(reader.text(section, "message").strip() or "user-data says so")
    if delay in ("now", "0", "+0"):
        # Not at once: this is a unit of systemd's, and it ends first.
        act = f"echo {message}; systemctl --no-block {_MODES[mode]}\n"
    else:
        option = {"poweroff": "-P", "reboot": "-r", "halt": "-H"}[mode]
        act = f"shutdown {option} +{delay.lstrip('+')} {message}\n"
    if "condition" not in section:
        return act
    condition = section["condition"][1]
    if isinstance(condition, Scalar) and condition.text.lower() in ("true", "yes", "on"):
        return act
    if isinstance(condition, Scalar) and condition.text.lower() in ("false", "no", "off"):
        return ""
    if isinstance(condition, Scalar):
        test = f"/bin/sh -c {shlex.quote(condition.text)}"
    elif (
        isinstance(condition, yamltree.Sequence)
        and condition.items
        and all(isinstance(item, Scalar) for item in condition.items)
    ):
        test = shlex.join(item.text for item in condition.items if isinstance(item, Scalar))
    else:
        reader.error(condition, "power_state.condition", "must be true, false or a command")
        return ""
    return f"if {test}; then {act.rstrip()}; fi\n"
