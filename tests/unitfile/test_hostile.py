"""Any text up to the cap is read in time proportional to its length: what fleetd gets by its API may be hostile.

Time is compared with itself, never with a clock's face: four times the text may cost ten times the CPU at most, where a
quadratic reader needs sixteen times.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from functools import partial

import pytest

from unitfile.install import Install
from unitfile.text import SIZE_MAX, UnitFile, UnitFileError

pytestmark = pytest.mark.slow

SHAPES: dict[str, Callable[[int], str]] = {
    "blanks before a word": lambda n: "[X-Fleet]\nConflicts=a" + " " * n + "b\n",
    "blanks around a continuation": lambda n: (
        "[X-Fleet]\nConflicts=a" + " " * (n // 2) + "\\\n" + " " * (n // 2) + "b\n"
    ),
    "blanks and no continuation after all": lambda n: "[S]\na=b \\\n" + " " * n + "\\ c\n",
    "continuations": lambda n: "[S]\na=b" + "\\\n" * (n // 2) + "\n",
    "continuations of blanks": lambda n: "[S]\na=b" + " \\\n" * (n // 3) + "\n",
    "backslashes": lambda n: "[S]\na=" + "\\" * n + "\n",
    "comments in a continuation": lambda n: "[S]\na=b \\\n" + "# c \\\n" * (n // 6) + "d\n",
    "empty lines": lambda n: "\n" * n,
    "carriage returns": lambda n: "\r" * n,
    "options": lambda n: "[S]\n" + "a=\n" * (n // 3),
    "sections": lambda n: "".join(f"[{each}]\na=\n" for each in range(n // 12)),
    "one section in turn with another": lambda n: "[A]\na=\n[B]\nb=\n" * (n // 14),
    "equals signs": lambda n: "[S]\na" + "=" * n + "\n",
    "brackets": lambda n: "[" * n + "\n",
    "a list over many lines": lambda n: "[Install]\n" + "WantedBy=a.service\n" * (n // 19),
    "a list emptied many times": lambda n: "[Install]\n" + "Alias=a.service\nAlias=\n" * (n // 23),
}


def work(text: str) -> None:
    """All that this room does with a unit's text."""
    try:
        unit = UnitFile.parse(text)
    except UnitFileError:
        return
    assert UnitFile.of(unit.options) == unit
    for option in unit.options:
        assert option.folded is not None
    unit.hash()
    Install.of(unit)


def cost(text: str) -> float:
    """CPU seconds, once."""
    begin = time.process_time()
    work(text)
    return time.process_time() - begin


def is_linear(text: Callable[[int], str]) -> bool:
    """What takes under 30 ms at a quarter of a megabyte is not quadratic, and too short to be compared.

    What else runs here can only add to a time, so the best of many counts: small and large in turn, since the clock of
    a processor changes, until the ratio is that of a linear reader or is not going to be.
    """
    small, large = text(SIZE_MAX // 16), text(SIZE_MAX // 4)
    least_small = least_large = float("inf")
    for _ in range(30):
        least_small, least_large = min(least_small, cost(small)), min(least_large, cost(large))
        if least_large < max(0.03, 10 * least_small):
            return True
    return False


@pytest.mark.parametrize("shape", SHAPES)
def test_four_times_the_text_costs_no_more_than_ten_times_as_much(shape: str) -> None:
    assert is_linear(SHAPES[shape])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_text_is_read(shape: str) -> None:
    text = SHAPES[shape](SIZE_MAX - 64)
    assert SIZE_MAX // 2 < len(text.encode()) <= SIZE_MAX
    with contextlib.suppress(UnitFileError):
        UnitFile.parse(text)


def test_what_chance_makes_of_continuations_is_read_in_linear_time(seed: int) -> None:
    chance = random.Random(seed)

    def text(size: int) -> str:
        lines, length = ["[S]", "a=b \\"], 0
        while length < size:
            line = chance.choice(["", "#", " ;", "x", "\\\\"]) + " " * chance.choice([0, 1, 9, 9000]) + "\\"
            lines.append(line)
            length += len(line) + 1
        return "\n".join([*lines, "end", ""])

    assert is_linear(text)
    assert UnitFile.parse(text(SIZE_MAX // 2)).options[0].folded.endswith("end")


def test_chance_finds_no_text_that_is_read_slowly(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(4):
        piece = "".join(chance.choices(["a=b\n", "[S]\n", "\\\n", " ", "\t" * 500, "a=", "\r", "#", "\n"], k=4))
        assert is_linear(partial(repeated, piece)), piece


def repeated(piece: str, size: int) -> str:
    """A section of about ``size`` characters."""
    return "[S]\n" + piece * (size // len(piece))
