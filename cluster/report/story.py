"""The story of one test, as data of JSON's kinds.

It travels in pytest's reports, also between the processes of pytest-xdist.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Phase(TypedDict):
    """``setup``, ``call`` or ``teardown`` of a test, in seconds since 1970."""

    name: str
    begin: float
    end: float


class EventData(TypedDict):
    """A :class:`cluster.model.timeline.Event`."""

    t: float
    kind: str
    what: str
    nodes: list[int]
    id: int | None


class FindingData(TypedDict):
    """A :class:`cluster.testing.scan.Finding`."""

    kind: str
    node: str
    source: str
    line: int
    text: str
    context: list[str]
    t: float | None


class EvidenceData(TypedDict):
    """A :class:`cluster.report.evidence.NodeEvidence`."""

    name: str
    state: str
    console: str
    units: str
    etcd: str


class ClusterStory(TypedDict):
    """One cluster's part of a story; ``nodes`` are names."""

    name: str
    nodes: list[str]
    events: list[EventData]
    findings: list[FindingData]
    evidence: list[EvidenceData]


class Story(TypedDict):
    """The story of the test with the id ``test``.

    ``message`` is there if it failed, ``facts`` (for people, by name) and ``clusters`` if it used a cluster.
    """

    test: str
    outcome: str
    phases: list[Phase]
    message: NotRequired[str]
    facts: NotRequired[dict[str, str]]
    clusters: NotRequired[list[ClusterStory]]
