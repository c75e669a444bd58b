"""What real fleetds say of themselves: health, numbers, and the log of events, with one of them standing by.

What the rules, the dashboard and the page of metrics name is what they export, and nothing else.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from etcd import Client
from etcd.errors import Unavailable
from etcd.fake import FakeEtcd
from fleet.api.handlers import Api
from fleet.model.events import Event, Kind
from fleet.model.live import Live
from fleet.model.measured import Measured
from fleet.model.registry import Registry
from fleet.model.vitals import BUCKETS_S, HISTOGRAM, METRICS, LoopState, Vitals
from tests.conftest import EtcdProcess
from tests.eventually import WITHIN_S, eventually
from tests.fleet.clusters import unit
from tests.fleet.test_daemon import Process
from webserver.message import Request
from webserver.unix import UnixConnection

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\b(?:fleet|process)_[a-z_]+\b")
LABELS = re.compile(r"\b((?:fleet|process)_[a-z_]+)\{([^}]*)\}")
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)+)\})? (\S+)')
TTL_S = 6


def ask(socket: Path, path: str) -> tuple[int, str]:
    with closing(UnixConnection(str(socket), timeout_s=WITHIN_S)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def samples(text: str) -> dict[str, dict[str, float]]:
    """Metrics with their samples, by their labels, of a text in Prometheus' format, all of which must be right."""
    found: dict[str, dict[str, float]] = {}
    described: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# "):
            _, kind, name, rest = line.split(" ", 3)
            assert kind in ("HELP", "TYPE")
            assert rest
            described.add(name)
            found.setdefault(name, {})
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, line
        name = match[1] if match[1] in described else re.sub(r"_(bucket|sum|count)$", "", match[1])
        assert name in described, "help and type come first"
        found[match[1]] = {**found.get(match[1], {}), (match[2] or ""): float(match[3])}
    return found


def of_histogram(name: str) -> str:
    """The metric of a series: ``x`` of ``x_bucket``."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if base in METRICS and METRICS[base].kind == HISTOGRAM else name


def expressions() -> Iterator[str]:
    rules = yaml.safe_load((ROOT / "docs/monitoring/alerts.yaml").read_text())
    for group in rules["groups"]:
        yield from (each["expr"] for each in group["rules"])
    dashboard = json.loads((ROOT / "docs/monitoring/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (each["expr"] for each in panel["targets"])


class TestFiles:
    """Rules, dashboard and page."""

    def test_they_name_what_is_exported(self) -> None:
        named = {of_histogram(name) for each in expressions() for name in NAME.findall(each)}
        assert named - METRICS.keys() == set()
        assert METRICS.keys() - named == set(), "each has a place on the dashboard, or a rule"

    def test_labels_are_those_of_the_metric(self) -> None:
        for each in expressions():
            for name, chosen in LABELS.findall(each):
                used = set(re.findall(r"(\w+)=", chosen)) - {"job", "instance"}
                assert used <= set(METRICS[of_histogram(name)].labels), each

    def test_the_page_has_each_metric_once_with_its_labels(self) -> None:
        page = (ROOT / "docs/metrics.md").read_text()
        rows = re.findall(r"^\| `((?:fleet|process)_\w+)` \|([^|]*)\|", page, re.MULTILINE)
        assert Counter(name for name, _ in rows) == Counter(METRICS.keys())
        assert {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == {
            name: each.labels for name, each in METRICS.items()
        }

    def test_the_page_says_what_to_do_about_each_alert(self) -> None:
        rules = yaml.safe_load((ROOT / "docs/monitoring/alerts.yaml").read_text())
        alerts = [each["alert"] for group in rules["groups"] for each in group["rules"]]
        named = re.findall(r"\*\*(Fleet\w+)\*\*", (ROOT / "docs/metrics.md").read_text())
        assert sorted(named) == sorted(set(alerts)) == sorted(alerts)


class TestFormat:
    """Prometheus' text."""

    def test_a_histogram_counts_upwards(self) -> None:
        vitals = Vitals()
        for seconds in (0.0, 0.001, 0.3, 99.0):
            vitals.observe("fleet_engine_step_seconds", seconds)
        found = samples(vitals.text({}))
        buckets = found["fleet_engine_step_seconds_bucket"]
        assert list(buckets) == [f'le="{bound}"' for bound in (*BUCKETS_S, "+Inf")]
        assert (buckets['le="0.001"'], buckets['le="0.5"'], buckets['le="+Inf"']) == (2, 3, 4)
        assert found["fleet_engine_step_seconds_count"] == {"": 4}
        assert found["fleet_engine_step_seconds_sum"][""] == pytest.approx(99.301)

    def test_labels_are_quoted(self) -> None:
        vitals = Vitals()
        vitals.count("fleet_events_total", 'a"b\\c\nd')
        assert 'fleet_events_total{kind="a\\"b\\\\c\\nd"} 1' in vitals.text({}).splitlines()

    def test_what_clients_send_makes_no_new_series(self) -> None:
        registry = Registry(FakeEtcd())
        api = Api(registry)
        for number in range(50):
            api.handle(Request("GET", f"/nothing{number}?a={number}"))
        api.handle(Request("GET", "/fleet/v1/units/x.service"))
        found = samples(api.handle(Request("GET", "/metrics")).body.decode())["fleet_api_requests_total"]
        assert found == {
            'handler="other",method="GET",code="404"': 50,
            'handler="units",method="GET",code="404"': 1,
        }

    def test_etcd_is_measured(self) -> None:
        vitals, etcd = Vitals(), FakeEtcd()
        client = Measured(etcd, vitals)
        client.put("a", b"")
        assert client.get("a") is not None
        etcd.reachable = False
        with pytest.raises(Unavailable):
            client.range("a")
        found = samples(vitals.text({}))
        assert found["fleet_etcd_request_seconds_count"] == {'operation="get"': 1, 'operation="put"': 1}
        assert found["fleet_etcd_errors_total"] == {'operation="range"': 1}
        assert found["fleet_etcd_up"] == {"": 0}


class TestHealth:
    """What is wrong, and that it is said."""

    def test_a_loop_that_hangs(self) -> None:
        registry = Registry(FakeEtcd())
        api = Api(registry)
        assert api.handle(Request("GET", "/healthz")).status == 200
        registry.vitals.loops = lambda: {"the agent": LoopState(3, hangs=False), "the engine": LoopState(9, hangs=True)}
        answer = api.handle(Request("GET", "/healthz"))
        assert answer.status == 503
        bad = [each for each in json.loads(answer.body)["checks"] if not each["ok"]]
        assert [each["name"] for each in bad] == ["loop of the engine"]
        assert "stands still" in bad[0]["message"]

    def test_a_leader_without_its_view_and_an_etcd_that_is_away(self) -> None:
        etcd = FakeEtcd()
        registry = Registry(etcd)
        live = Live(registry)
        api = Api(registry, live)

        def wrong() -> list[str]:
            answer = api.handle(Request("GET", "/readyz"))
            body = json.loads(answer.body)
            assert (answer.status == 200) is body["ok"]
            return [each["name"] for each in body["checks"] if not each["ok"]]

        assert wrong() == ["machine"], "its agent has not begun"
        registry.vitals.trouble = ""
        assert wrong() == []
        registry.vitals.role = "leader"
        assert wrong() == ["view"]
        live.show(registry.overview())
        assert wrong() == []
        etcd.reachable = False
        assert wrong() == ["etcd"]
        assert api.handle(Request("GET", "/metrics")).status == 200


class Pair:
    """Two fleetds and their etcd; ``log`` follows the events through the API of one."""

    def __init__(self, folder: Path, etcd: EtcdProcess) -> None:
        self.etcd = etcd
        self.registry = Registry(Client([etcd.endpoint]))
        self.fleetds: dict[str, Process] = {}
        for letter in "ab":
            self.fleetds[letter * 32] = Process(folder / letter, TTL_S, machine=letter * 32, etcd=etcd.endpoint)
            eventually(lambda letter=letter: self.ready(letter * 32)["ok"], "it is not ready")  # type: ignore[misc]

    def ready(self, machine: str) -> Any:
        try:
            return json.loads(ask(self.fleetds[machine].api, "/readyz")[1])
        except (OSError, http.client.HTTPException):
            return {"ok": False, "role": ""}

    def numbers(self, machine: str) -> Mapping[str, Mapping[str, float]]:
        status, text = ask(self.fleetds[machine].api, "/metrics")
        assert status == 200
        return samples(text)

    def one(self, role: str) -> str:
        return next((each for each in self.fleetds if self.ready(each)["role"] == role), "")

    def follow(self, machine: str) -> subprocess.Popen[str]:
        code = "import sys; from fleet.ctl.cli import main; sys.exit(main())"
        endpoint = f"unix://{self.fleetds[machine].api}"
        return subprocess.Popen(
            [sys.executable, "-c", code, "--endpoint", endpoint, "events", "-f", "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        for each in self.fleetds.values():
            each.close()
        self.registry.client.close()


@pytest.fixture
def pair(tmp_path: Path, make_etcd: Callable[..., EtcdProcess]) -> Iterator[Pair]:
    etcd = make_etcd()
    etcd.start()
    etcd.wait_healthy()
    made = Pair(tmp_path, etcd)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.etcd
def test_two_fleetds_one_of_which_stands_by(pair: Pair, request: pytest.FixtureRequest) -> None:
    eventually(lambda: pair.one("leader") and pair.one("standby"), "no leader and standby")
    old, new = pair.one("leader"), pair.one("standby")
    pair.registry.create_unit(unit("x.service", f"MachineID={old}"), by="10.0.0.1")
    pair.registry.create_unit(unit("y.service"))
    eventually(lambda: len(pair.registry.placements()) == 2)
    home = pair.registry.placements()["y.service"]

    # Numbers: all that is in the table, from a leader that works.
    eventually(lambda: pair.numbers(old)["fleet_units"].get('desired="launched"') == 2)
    eventually(lambda: pair.numbers(old)["fleet_engine_renewals_total"])
    found, other = pair.numbers(old), pair.numbers(new)
    assert {of_histogram(name) for name in found} == METRICS.keys()
    silent = {name for name in METRICS if not any(found[each] for each in found if of_histogram(each) == name)}
    assert silent <= {"fleet_agent_steps_total", "fleet_etcd_errors_total"}
    assert (found["fleet_engine_leading"], other["fleet_engine_leading"]) == ({"": 1}, {"": 0})
    assert (found["fleet_engine_standing_by"], other["fleet_engine_standing_by"]) == ({"": 0}, {"": 1})
    assert found["fleet_machines"] == other["fleet_machines"] == {"": 2}
    assert found["fleet_engine_reigns_total"] == {"": 1}
    assert set(found["fleet_loop_turns_total"]) == {
        f'loop="{each}"' for each in ("the agent", "the engine", "the leader's lease")
    }
    assert [name for name in found if name.startswith("fleet_events")]

    # The leader dies with its machine; who follows through the other one sees all of it, once.
    reader = pair.follow(new)
    request.addfinalizer(reader.kill)
    watch = threading.Timer(2 * WITHIN_S, reader.kill)  # a reader that gets nothing is a failure, not a hang
    watch.start()
    request.addfinalizer(watch.cancel)
    assert reader.stdout is not None
    first = json.loads(reader.stdout.readline())
    pair.fleetds[old].process.send_signal(signal.SIGKILL)
    rows = [first]
    while rows[-1]["kind"] != Kind.EVICTED:
        line = reader.stdout.readline()
        assert line, reader.communicate()
        rows.append(json.loads(line))
    reader.send_signal(signal.SIGINT)
    reader.communicate(timeout=WITHIN_S)
    counts = Counter((each["kind"], each["unit"] or each["machine"]) for each in rows)
    assert max(counts.values()) == 1
    assert counts[Kind.LEADER, new] == counts[Kind.LEFT, old] == counts[Kind.EVICTED, old] == 1
    leader = next(each for each in rows if each["kind"] == Kind.LEADER and each["machine"] == new)
    assert (leader["former"], leader["by"]) == (old, f"fleetd {new}")

    eventually(lambda: pair.registry.placements() == {"y.service": new})
    log = [event for batch in pair.registry.log.after(0).batches for event in batch.events]
    assert Counter((each.kind, each.unit) for each in log)[Kind.MOVED, "y.service"] == (home == old)
    assert next(each for each in log if each.unit == "x.service" and each.kind == Kind.REMOVED).former == old
    assert Event(Kind.WAITING, "x.service", reason=f"no machine: 1 is not machine {old}") in log


@pytest.mark.slow
@pytest.mark.etcd
def test_readiness_follows_etcd(pair: Pair) -> None:
    machine = pair.one("leader") or next(iter(pair.fleetds))
    pair.etcd.kill()
    eventually(lambda: not pair.ready(machine)["ok"])
    bad = {each["name"]: each for each in pair.ready(machine)["checks"] if not each["ok"]}
    assert "cannot connect to etcd" in bad["etcd"]["message"]
    status, text = ask(pair.fleetds[machine].api, "/healthz")
    assert (status, json.loads(text)["ok"]) == (200, True)
    assert pair.numbers(machine)["fleet_etcd_up"] == {"": 0}
    pair.etcd.start()
    eventually(lambda: pair.ready(machine)["ok"])
