"""What a mistyped word may have meant."""

from __future__ import annotations

from collections.abc import Iterable

_LENGTH_MAX = 64  # the comparison takes the square of the length


def did_you_mean(word: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """A hint with the word of ``known`` that is nearest to ``word``: "did you mean start?".

    ``otherwise`` if none is near."""
    import difflib  # only a mistake pays for the import

    near = difflib.get_close_matches(word[:_LENGTH_MAX], sorted(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise
