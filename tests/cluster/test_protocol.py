"""The supervisor's protocol: whatever is sent arrives as it is, and whatever else is on a line is refused with a
sentence.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.cli import main
from cluster.client import control, root_shell
from cluster.client.cluster import Cluster, processes
from cluster.daemon.supervisor import Supervisor
from cluster.model import encoding, protocol
from cluster.model.accelerator import Accelerator
from cluster.model.description import Description
from cluster.model.impairment import Impairment
from cluster.model.protocol import (
    REQUESTS,
    TURNS,
    Begun,
    ClusterState,
    Heal,
    Impair,
    Request,
    Shutdown,
    StartNode,
    Status,
    StepClock,
    StopNode,
)
from terminal import Failure, record
from terminal.version import VERSION as PROGRAM
from tests.cluster.commands import call
from tests.cluster.tinyguest import tiny_cluster

numbers = st.floats(allow_nan=False, allow_infinity=False)
impairments = st.builds(
    Impairment,
    cut=st.booleans(),
    delay_s=st.floats(0.001, 60),
    loss=st.floats(0, 1),
    rate_bps=st.none() | st.just(10**6),
)
descriptions = st.builds(
    Description,
    name=st.text(),
    runtime=st.text(),
    qemu=st.text(),
    accelerator=st.builds(Accelerator, name=st.text(), factor=numbers, reason=st.text()),
    memory_mib=st.integers(),
    ssh_ports=st.lists(st.integers(), min_size=1, max_size=3).map(tuple),
    discovery_port=st.integers(),
    agent_ttl=st.text(),
    node_numbers=st.just(()),
    member_numbers=st.just(()),
    load_images=st.lists(st.text(), max_size=2).map(tuple),
)
st.register_type_strategy(Impairment, impairments)
st.register_type_strategy(Description, descriptions)
st.register_type_strategy(float, numbers)

requests = st.sampled_from(REQUESTS).flatmap(st.from_type)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(requests)
def test_every_request_arrives_as_it_was_sent(request: Request[object]) -> None:
    line = encoding.encode(request)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert encoding.decode(line) == request


@given(st.sampled_from(TURNS).flatmap(st.from_type))
def test_every_turn_arrives_as_it_was_sent(turn: protocol.Turn) -> None:
    assert encoding.decode_turn(encoding.encode_turn(turn)) == turn


@given(st.data(), st.sampled_from([kind for kind in REQUESTS if not issubclass(kind, protocol.Conversation)]))
def test_every_reply_arrives_as_it_was_sent(data: st.DataObject, kind: type[Request[object]]) -> None:
    request: Request[object] = data.draw(st.from_type(kind))
    reply = data.draw(st.from_type(protocol.reply_type(kind)))
    assert encoding.decode_reply(request, encoding.encode_reply(request, reply), "here") == reply


@given(requests, st.data())
def test_a_line_that_is_cut_short_is_refused(request: Request[object], data: st.DataObject) -> None:
    line = encoding.encode(request).rstrip(b"\n")
    cut = line[: data.draw(st.integers(0, len(line) - 1))]
    with pytest.raises(Failure, match="the supervisor knows no such request"):
        encoding.decode(cut)


@given(requests, st.data())
def test_a_field_too_many_or_too_few_or_of_another_type_is_refused(
    request: Request[object], data: st.DataObject
) -> None:
    message = json.loads(encoding.encode(request))
    fields, types = message["fields"], get_type_hints(type(request))
    required = [field.name for field in dataclasses.fields(request) if field.default is dataclasses.MISSING]
    how = data.draw(st.sampled_from(["unknown", *(["missing"] if required else []), *(["type"] if fields else [])]))
    if how == "unknown":
        fields["colour"] = 1
    elif how == "missing":
        del fields[data.draw(st.sampled_from(required))]
    else:
        name = data.draw(st.sampled_from(sorted(fields)))
        fields[name] = data.draw(json_values)
        with pytest.raises(ValueError):
            record.fit(types[name], fields[name], name)
            assume(False)  # it is of a type that fits
    with pytest.raises(Failure):
        encoding.decode(json.dumps(message).encode())


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_other_line_is_refused(line: bytes) -> None:
    with pytest.raises(Failure):
        encoding.decode(line)
    with pytest.raises(Failure):
        encoding.decode_reply(Status(), line, "here")
    with pytest.raises(ValueError):
        encoding.decode_turn(line)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"pairs": [[1, 2, 3]]}, "Impair: pairs is of another type"),
        ({"pairs": ["12"]}, "Impair: pairs is of another type"),
        ({"pairs": [[1, True]]}, "Impair: pairs is of another type"),
        ({"impairment": {"colour": 1}}, "Impair: Impairment has no colour"),
        ({"impairment": {"loss": "much"}}, "Impair: loss is of another type"),
        ({"impairment": {"loss": 2}}, "a share is between 0 and 1"),
        ({"impairment": {"delay_s": 10**400}}, "Impair: a number is too large"),
        ({"seed": 1.5}, "Impair: seed is of another type"),
    ],
)
def test_a_refusal_says_what_is_wrong(fields: dict[str, object], why: str) -> None:
    message = json.loads(encoding.encode(Impair("x", ((1, 2),), Impairment(cut=True), None)))
    message["fields"] |= fields
    with pytest.raises(Failure, match=why):
        encoding.decode(json.dumps(message).encode())


@pytest.mark.parametrize(
    ("request_", "reply"),
    [(Status(), None), (Status(), {}), (StartNode(1), 0), (Heal(None), ["1"]), (StepClock(1, 5), {"id": 1})],
)
def test_a_reply_of_another_type_is_refused_by_both_sides(request_: Request[object], reply: object) -> None:
    with pytest.raises(ValueError):
        encoding.encode_reply(request_, reply)
    line = json.dumps({"protocol": protocol.VERSION, "program": PROGRAM, "result": reply}).encode()
    with pytest.raises(Failure, match=f"does not answer to {type(request_).__name__}: "):
        encoding.decode_reply(request_, line, "here")


def test_replies_of_every_kind_are_named_by_their_requests() -> None:
    assert protocol.reply_type(Status) is ClusterState
    assert protocol.reply_type(StepClock) is Begun
    assert protocol.reply_type(StopNode) is type(None)
    classes = inspect.getmembers(protocol, inspect.isclass)
    bases = (Request, protocol.NodeRequest, protocol.Conversation)
    assert {kind for _, kind in classes if issubclass(kind, Request)} == {*REQUESTS, *bases}
    assert {kind for _, kind in classes if issubclass(kind, protocol.Turn)} == {*TURNS, protocol.Turn}


# --- other versions ---------------------------------------------------------------------------------------------------

OLDER = b'{"failure": "the supervisor knows no such request: {}", "where": null, "hint": null}\n'
"""What supervisors say to us that numbered no protocol."""
NEWER = b'{"protocol": 9, "program": "0.2.0", "result": null}\n'


@contextmanager
def supervisor(path: Path, reply: bytes) -> Iterator[list[bytes]]:
    """One that answers any request with ``reply``, once; the requests are kept."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            line, _ = listener.accept()
            with line, line.makefile("rb") as lines:
                requests.append(lines.readline())
                line.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join()


@pytest.mark.parametrize(
    ("reply", "who"),
    [(OLDER, "an older Flotilla, which numbers no protocol"), (NEWER, "Flotilla 0.2.0, which speaks protocol 9")],
)
def test_a_supervisor_of_another_version_is_named_with_the_way_out(home: Path, reply: bytes, who: str) -> None:
    with supervisor(home / "control", reply) as requests, pytest.raises(Failure) as caught:
        control.ask(home / "control", Shutdown())
    we = f"this command is of Flotilla {PROGRAM}, which speaks protocol {protocol.VERSION}"
    assert caught.value.message == f"the cluster was started by {who}; {we}"
    assert caught.value.hint == encoding.REMEDY
    assert caught.value.where == str(home / "control")
    assert "do" in json.loads(requests[0]), "without it, one of those from before would hang up without a word"


def test_so_it_is_for_a_root_shell(home: Path) -> None:
    with supervisor(home / "control", OLDER), pytest.raises(Failure, match="started by an older Flotilla"):
        root_shell.run(home / "control", 1, "true", 20)


def test_the_words_of_a_newer_supervisor_are_passed_on(home: Path) -> None:
    newer = (
        b'{"protocol": 9, "program": "0.2.0", "failure": "too old", "where": "x", "hint": "cluster-down", "also": 1}\n'
    )
    with supervisor(home / "control", newer), pytest.raises(Failure, match="x: too old") as caught:
        control.ask(home / "control", Status())
    assert caught.value.hint == "cluster-down"


@pytest.mark.parametrize(
    ("line", "who"),
    [
        (b'{"do": "status"}\n', "an older Flotilla, which numbers no protocol"),
        (b'{"do": "shutdown"}\n', "an older Flotilla, which numbers no protocol"),
        (b'{"do": "root", "node": 1, "command": null}\n', "an older Flotilla, which numbers no protocol"),
        (
            b'{"protocol": 9, "program": "9.0", "request": "Shutdown", "fields": {}}\n',
            "Flotilla 9.0, which speaks protocol 9",
        ),
    ],
)
def test_a_command_of_another_version_is_refused_and_changes_nothing(image: Path, line: bytes, who: str) -> None:
    with tiny_cluster(image) as cluster:
        with socket.socket(socket.AF_UNIX) as there:
            there.connect(str(cluster.layout.control))
            there.sendall(line)
            with there.makefile("rb") as lines:
                said: dict[str, Any] = json.loads(lines.readline())
        # The three that every version reads.
        assert said["failure"].startswith(f"this command is of {who}; the cluster was started by Flotilla {PROGRAM}")
        assert said["hint"] == encoding.REMEDY
        assert said["where"] is None
        assert cluster.is_running


def test_a_cluster_of_another_version_is_listed_and_can_be_removed(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tiny_cluster(image) as cluster:
        (running, *_) = processes(cluster.layout)
        monkeypatch.setattr(protocol, "VERSION", protocol.VERSION + 1)  # of this process; the supervisor is another one
        assert call(main, "list") == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines()[1].split()[:4] == ["tiny", "no", "answer", "2"]
        assert "cluster 'tiny': this command is of Flotilla" in printed.err
        assert call(main, "status", "--name", "tiny") == 1
        assert call(main, "down", "--name", "tiny") == 0
        assert not running.alive
        assert Cluster.names() == []


def test_there_is_a_handler_for_every_request(image: Path) -> None:
    with tiny_cluster(image) as cluster:
        state = cluster.layout.state
        cluster.stop()
        assert Supervisor(state).handlers().known == set(REQUESTS)


def test_a_request_that_is_longer_than_a_line_is_refused(image: Path) -> None:
    with tiny_cluster(image) as cluster:
        with pytest.raises(Failure, match=r"does not answer to Mark|is longer than 1048576 bytes"):
            cluster.ask(protocol.Mark("x" * (protocol.LINE_BYTES_MAX + 1)))
        assert Cluster.open("tiny").ask(Status()).nodes[0].state == "off"


# --- one version ------------------------------------------------------------------------------------------------------

SHAPE = Path(__file__).with_name("protocol.txt")
"""The version, and every class that is sent, with its fields and their types."""


def shape() -> str:
    lines, seen, waiting = [], set[object](), [*REQUESTS, *TURNS]
    while waiting:
        kind = waiting.pop(0)
        if dataclasses.is_dataclass(kind) and kind not in seen:
            seen.add(kind)
            types = {field.name: get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
            reply = [protocol.reply_type(kind)] if kind in REQUESTS else []
            fields_of = [f"{name}: {named(each)}" for name, each in types.items()]
            lines.append(f"{kind.__name__}({', '.join(fields_of)})" + "".join(f" -> {named(each)}" for each in reply))
            waiting += [each for outer in (*types.values(), *reply) for each in (outer, *get_args(outer))]
    return f"protocol {protocol.VERSION}\n" + "".join(f"{line}\n" for line in sorted(lines))


def named(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else re.sub(r"\b\w+\.", "", str(kind))


def test_who_changes_a_request_or_a_reply_raises_the_version() -> None:
    assert shape() == SHAPE.read_text(), (
        "the protocol has changed: raise VERSION in cluster/model/protocol.py, then write what shape() returns to protocol.txt"
    )
