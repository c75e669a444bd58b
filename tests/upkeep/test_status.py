"""The result of a check, as others read it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from upkeep.space import Fill
from upkeep.status import Status


@given(
    st.text()
    | st.recursive(
        st.none() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["fills", "above", "idle", "removed", "stuck"]), inner)
        ),
    ).map(json.dumps)
)
def test_a_status_that_is_damaged_is_none(text: str) -> None:
    assert isinstance(Status.parse(text), Status)


COUNTS = st.dictionaries(st.text(), st.integers(0, 1 << 53))


@given(
    st.builds(
        Status,
        st.lists(st.builds(Fill, st.text(), st.integers(0, 1 << 53), st.floats(0, 100))).map(tuple),
        st.lists(st.text()).map(tuple),
        st.booleans(),
        COUNTS,
        COUNTS,
    )
)
def test_a_status_is_read_as_it_was_written(status: Status) -> None:
    assert Status.parse(json.dumps(status.json())) == status


def test_metrics() -> None:
    """Prometheus' text format: every family has its help, its type, and then its samples."""
    fills = (Fill("/var", 1000, 91.25), Fill("/var/lib/docker", 2000, 12))
    assert (
        Status(fills, ("/var",), True, {"i": 1.0}, {"image": 3}).metrics()
        == """\
# HELP flotilla_room_size_bytes Size of the file system, without what is kept for the system.
# TYPE flotilla_room_size_bytes gauge
flotilla_room_size_bytes{path="/var"} 1000
flotilla_room_size_bytes{path="/var/lib/docker"} 2000
# HELP flotilla_room_used_ratio How much of that is used, from 0 to 1.
# TYPE flotilla_room_used_ratio gauge
flotilla_room_used_ratio{path="/var"} 0.9125
flotilla_room_used_ratio{path="/var/lib/docker"} 0.1200
# HELP flotilla_room_above Whether it is too full: unused images and ended containers go.
# TYPE flotilla_room_above gauge
flotilla_room_above{path="/var"} 1
flotilla_room_above{path="/var/lib/docker"} 0
# HELP flotilla_room_stuck Whether it is too full, and nothing more may be removed.
# TYPE flotilla_room_stuck gauge
flotilla_room_stuck 1
# HELP flotilla_room_removed_total What was removed since the start of the node.
# TYPE flotilla_room_removed_total counter
flotilla_room_removed_total{kind="container"} 0
flotilla_room_removed_total{kind="image"} 3
"""
    )
