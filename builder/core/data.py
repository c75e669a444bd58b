"""The places of the commands' data: beside the packages in a checkout, inside the package in an installed wheel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from terminal import Failure

_HERE = Path(__file__).parents[1]


def root() -> Path:
    """The folder of ``image/`` and ``units/``: the checkout, or ``builder/share`` of a wheel (see pyproject.toml).

    Raises :class:`terminal.Failure` if neither has them.
    """
    for folder in (_HERE.parent, _HERE / "share"):
        if (folder / "image").is_dir() and (folder / "units").is_dir():
            return folder
    raise Failure(
        "the image definition is neither beside this package nor in it",
        where=str(_HERE),
        hint="run from a checkout, or install the wheel again: it carries image/ and units/",
    )


def checkout() -> Path | None:
    """The checkout that this code runs from; None in an installed wheel."""
    folder = root()
    return folder if folder == _HERE.parent else None


def image() -> Path:
    """The folder of the image definition: ``node.yaml``, its lock, ``overlay/``, ``containers/``."""
    return root() / "image"


def units() -> Path:
    """The folder of systemd units: ``system/`` for the image, ``examples/`` for users of fleet."""
    return root() / "units"


def packages(name: str) -> Path:
    """The source folder of our installed top-level package ``name``, found without importing it.

    The builder copies ``cloudconfig``, ``fleet`` and so on into the image as files; it may not depend on them as code.
    Raises :class:`terminal.Failure` if there is no such package.
    """
    spec = find_spec(name)
    locations = spec.submodule_search_locations if spec is not None else None
    if not locations:
        raise Failure("no such package is installed", where=name, hint="run ./scripts/setup in the checkout")
    return Path(next(iter(locations)))
