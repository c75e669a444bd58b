"""A real etcd that is full, or guarded: its answer becomes an error that says what to do, and doing that helps."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.cli import run as discovery
from etcd import Client, Denied, EtcdError, NoSpace, TooLarge, Unavailable
from etcd.refusals import refusal
from fleet.api.handlers import Api
from fleet.model.registry import Registry
from terminal import Failure
from tests.conftest import EtcdProcess
from webserver.message import Request

pytestmark = pytest.mark.etcd

UNIT = {"desiredState": "inactive", "options": [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]}
QUOTA_BYTES = 4 << 20


class Etcdctl:
    """The command beside the etcd that tests use, which etcd's hints name."""

    def __init__(self, binary: str, endpoint: str) -> None:
        found = Path(binary).with_name("etcdctl")
        path = str(found) if found.exists() else shutil.which("etcdctl")
        if path is None:
            pytest.fail("no etcdctl beside etcd: run `scripts/setup`, or install Debian's etcd-client")
        self._command = [path, f"--endpoints={endpoint}"]

    def __call__(self, *words: str) -> str:
        return subprocess.run([*self._command, *words], check=True, capture_output=True, text=True).stdout


def put(api: Api, name: str, unit: Any) -> tuple[int, dict[str, str]]:
    headers = {"content-type": "application/json"}
    answer = api.handle(Request("PUT", f"/fleet/v1/units/{name}", headers, json.dumps(unit).encode()))
    return answer.status, json.loads(answer.body)["error"] if answer.body else {}


def test_a_full_etcd_says_what_to_do_and_that_helps(make_etcd: Callable[[], EtcdProcess]) -> None:
    process = make_etcd()
    process.start(ETCD_QUOTA_BACKEND_BYTES=str(QUOTA_BYTES))
    process.wait_healthy()
    client = Client([process.endpoint])
    api = Api(Registry(client))
    with pytest.raises(NoSpace) as full:
        for _ in range(20):
            client.put("/big", b"x" * 1_000_000)
    assert full.value.where == process.endpoint
    status, answer = put(api, "a.service", UNIT)
    assert (status, answer["message"]) == (507, "etcd is full, and takes nothing new (mvcc: database space exceeded)")
    assert "'sudo discovery alarms' on a node" in answer["hint"]
    assert api.handle(Request("GET", "/fleet/v1/units")).status == 200, "it can still be read"

    assert discovery(["alarms", "--repair", "--endpoint", process.endpoint]) == 0, "as etcd-alarms.timer does it"
    assert put(api, "a.service", UNIT)[0] == 201
    client.close()


def test_an_etcd_that_asks_who_one_is(etcd_binary: str, make_etcd: Callable[[], EtcdProcess]) -> None:
    process = make_etcd()
    process.start()
    process.wait_healthy()
    etcdctl = Etcdctl(etcd_binary, process.endpoint)
    etcdctl("user", "add", "root:secret")
    etcdctl("user", "grant-role", "root", "root")
    etcdctl("auth", "enable")
    client = Client([process.endpoint])
    with pytest.raises(Denied, match="etcd does not let this client do that"):
        client.get("/a")
    status, answer = put(Api(Registry(client)), "a.service", UNIT)
    assert status == 500
    assert "etcdctl auth status" in answer["hint"]
    with pytest.raises(EtcdError):
        next(client.watch("/a"))
    client.close()


def test_more_than_one_request_may_be(real_etcd: str) -> None:
    client = Client([real_etcd])
    with pytest.raises(TooLarge) as refused:
        client.put("/large", b"x" * 1_700_000)
    assert "max-request-bytes" in (refused.value.hint or "")
    client.close()


@given(st.text(), st.integers(-1, 20))
def test_whatever_it_says_is_one_of_our_errors(message: str, code: int) -> None:
    error = refusal(message, where="here", code=code)
    assert isinstance(error, EtcdError)
    assert error.where == "here" or (code == 5 and "lease" in message)


def test_an_overloaded_etcd_is_tried_again() -> None:
    error = refusal("etcdserver: too many requests", where="here", code=8)
    assert isinstance(error, Unavailable)
    assert error.reached
    assert not error.maybe_applied, "it was refused before it was begun"


def test_a_failure_on_one_line() -> None:
    assert Failure("it is full", where="there", hint="make room").on_one_line == "there: it is full (make room)"
    assert Failure("it is full").on_one_line == "it is full"
