"""Tries doors: a program for nodes and containers, which have nothing of ours. Standard library only.

``probe.py SECONDS HOST:PORT...`` connects to all at once, and prints what became of each as JSON: ``open``, or how it
was refused.
"""

from __future__ import annotations

import asyncio
import errno
import json
import sys


async def attempt(target: str, seconds: float) -> str:
    host, _, port = target.rpartition(":")
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return "silent"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    writer.close()
    return "open"


async def main(seconds: float, targets: list[str]) -> None:
    answers = await asyncio.gather(*(attempt(target, seconds) for target in targets))
    print(json.dumps(dict(zip(targets, answers, strict=True))))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2:]))
