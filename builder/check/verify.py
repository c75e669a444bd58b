"""``osbuild verify``: is a build folder what its lock gives? It is built again from nothing, and compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from builder.about import manifest
from builder.about.result import printable
from builder.check import artifacts
from builder.core import data
from builder.core.store import Store
from builder.debian.offline import no_mirror
from builder.debian.tools import Tools
from builder.definition import definition
from builder.pipeline import cache, output
from builder.pipeline.build import build_image
from builder.pipeline.order import CONTAINER, MIXED, Settings
from terminal import Failure, record

_OF_THE_BUILD: Final = ("build", "inputs", "updates")
"""Keys of the manifest for a build's inputs, and for the updates of that day. The others describe the result."""


@dataclass(frozen=True)
class Artifact:
    """One file of the folder: its hash when built (by its manifest), now, and rebuilt (None where there is none).

    ``differences`` lists where the files differ, if they do.
    """

    name: str
    recorded: str | None
    found: str | None
    rebuilt: str | None
    differences: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Are all three the same?"""
        return self.recorded == self.found == self.rebuilt


@dataclass(frozen=True)
class Verdict:
    """What :func:`verify` found. ``inputs`` names the inputs of the folder that are different now."""

    directory: Path
    inputs: tuple[str, ...]
    artifacts: tuple[Artifact, ...]

    @property
    def is_same(self) -> bool:
        """Is the folder, to the bit, what the rebuild made?"""
        return all(artifact.is_same for artifact in self.artifacts)


def verify(directory: Path, settings: Settings) -> Verdict:
    """Rebuild the contents of ``directory`` and compare; ``settings`` determine how it is built, not what.

    Builds into ``directory`` wait meanwhile. Raises :class:`Failure` for a folder that no build made, and as a build
    does.
    """
    with output.kept(directory):
        built = _manifest(directory)
        settings = _as_built(directory, built, settings)
        store = Store(settings.store)
        with store.scratch() as work:
            again = work / "again"
            build_image(replace(settings, output=again))
            rebuilt = record.parse((again / manifest.NAME).read_text())
            with settings.phases.phase("comparing"), cache.in_use(store):
                tools = Tools.ours(store, no_mirror)
                recorded = {each["name"]: each["sha256"] for each in built["artifacts"]}
                made = {each["name"]: each["sha256"] for each in rebuilt["artifacts"]}
                artifacts = [
                    _artifact(name, recorded.get(name), directory / name, made.get(name), again / name, tools, work)
                    for name in sorted(recorded.keys() | made.keys())
                ]
    return Verdict(directory, _changed(built, rebuilt), (*artifacts, _manifests(built, rebuilt)))


def describe(verdict: Verdict, limit: int = 20) -> str:
    """The verdict as text, with at most ``limit`` lines for each artifact."""
    lines = []
    if verdict.inputs:
        lines.append(f"{verdict.directory} was built from another {', another '.join(verdict.inputs)}")
    for artifact in verdict.artifacts:
        if artifact.is_same:
            continue
        if artifact.found is None:
            lines.append(
                f"{artifact.name}: it is gone" if artifact.recorded else f"{artifact.name}: only in the rebuild"
            )
        elif artifact.rebuilt is None:
            lines.append(f"{artifact.name}: not in the rebuild")
        elif artifact.found != artifact.recorded:
            lines.append(f"{artifact.name}: changed after it was built")
        else:
            lines.append(f"{artifact.name}: differs from its rebuild")
        lines += [f"  {line}" for line in artifact.differences[:limit]]
        if len(artifact.differences) > limit:
            lines.append(f"  and {len(artifact.differences) - limit} more")
    count = len(verdict.artifacts)
    differing = sum(not artifact.is_same for artifact in verdict.artifacts)
    lines.append(
        f"{verdict.directory}: {differing} of {count} files are not what the lock gives"
        if differing
        else f"{verdict.directory} is what its lock gives: {count} files, the same bytes"
    )
    return "\n".join(printable(line) for line in lines)


def _manifest(directory: Path) -> dict[str, Any]:
    """The folder's manifest, checked as far as it is used here."""
    try:
        value = record.parse((directory / manifest.NAME).read_text())
        if not isinstance(value["inputs"], dict) or not isinstance(value["release"], bool):
            raise TypeError
        for text in (value["name"], value["target"], value["build"], value["architecture"]):
            if not isinstance(text, str):
                raise TypeError
        for each in value["artifacts"]:
            # Only files directly in the folder, so that a manifest cannot make us read another.
            if Path(each["name"]).name != each["name"] or not isinstance(each["sha256"], str):
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(
            "no build left a manifest here from which to build again",
            where=str(directory / manifest.NAME),
            hint="name the folder of a whole build; one that an older osbuild made has to be built again",
        ) from error
    return dict(value)


def definition_of(directory: Path, name: str, target: str, architecture: str, given: Path | None) -> Path:
    """The definition of the build in ``directory``, by its manifest: the one ``given``, or ours.

    Raises :class:`Failure` if the build is of another definition.
    """
    path = given or data.image() / "node.yaml"
    kind, _, container = target.partition("/")
    if given is None and kind == CONTAINER:
        path = data.image() / "containers" / f"{Path(container).name}.yaml"
        if not path.exists():
            raise Failure(
                f"it was built from a definition named '{name}' that is not ours",
                where=str(directory),
                hint="name it with --definition FILE",
            )
    found = definition.load(path, architecture).name
    if found != name:
        raise Failure(
            f"it was built from a definition named '{name}', this one is '{found}'",
            where=str(directory),
            hint="name the right one with --definition FILE",
        )
    return path


def _as_built(directory: Path, built: dict[str, Any], settings: Settings) -> Settings:
    """``settings`` with definition, target and options of the manifest."""
    target, architecture = built["target"], built["architecture"]
    kind = target.partition("/")[0]
    found = definition_of(directory, built["name"], target, architecture, settings.definition)
    return replace(
        settings,
        # An image of ours is built without naming its definition: failures then have other hints.
        definition=found if kind == CONTAINER else settings.definition,
        target=kind,
        architecture=architecture,
        release=built["release"],
        outdated="ignore",
        cache="ignore",
    )


def _artifact(
    name: str, recorded: str | None, path: Path, rebuilt: str | None, again: Path, tools: Tools, scratch: Path
) -> Artifact:
    # Nothing else is read: a pipe in its place would block for ever.
    found = manifest.sha256(path) if path.is_file() else None
    lines: list[str] = []
    if found is not None and rebuilt is not None and found != rebuilt:
        lines = artifacts.differences(path, again, tools, scratch)
    return Artifact(name, recorded, found, rebuilt, tuple(lines))


def _manifests(built: dict[str, Any], rebuilt: dict[str, Any]) -> Artifact:
    """The manifests themselves, except their inputs."""
    values = [{key: value[key] for key in value if key not in _OF_THE_BUILD} for value in (built, rebuilt)]
    texts = [hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for value in values]
    one, other = values
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return Artifact(manifest.NAME, texts[0], texts[0], texts[1], tuple(f"'{key}' differs" for key in keys))


def _changed(built: dict[str, Any], rebuilt: dict[str, Any]) -> tuple[str, ...]:
    """The inputs that differ, by name."""
    if built["build"] == MIXED:
        return ("state of its files: they were edited while it was built",)
    one, other = built["inputs"], rebuilt["inputs"]
    return tuple(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))
