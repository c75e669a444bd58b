"""What a failed test reports: faults as bars, and the session's page as a person sees it in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.model.timeline import Event
from cluster.report.bars import Bar, bars, points, rows, text
from cluster.report.page import TICKS_MAX, render, ticks
from cluster.report.story import FindingData, Story
from tests.browser import Browser, Seen
from tests.builder.test_pages import assert_apart, contrast

pytestmark = pytest.mark.slow

T = 1_795_442_400.0
HOSTILE = '<script>alert(1)</script> & "quoted" \'; </pre></svg>'

EVENTS = [
    Event(T + 1, "power", "node-1 on", (1,)),
    Event(T + 1, "power", "node-2 on", (2,)),
    Event(T + 10, "fault", "isolate node-1", (1, 2), 7),
    Event(T + 12, "fault", "kill node-2", (2,)),
    Event(T + 12.1, "power", "node-2 off: signal 9", (2,)),
    Event(T + 15, "mark", HOSTILE),
    Event(T + 20, "heal", "isolate node-1", (1, 2), 7),
    Event(T + 22, "power", "node-2 on", (2,)),
    Event(T + 24, "fault", "pause node-1", (1,)),
    Event(T + 26, "heal", "resume node-1", (1,)),
    Event(T + 28, "fault", "degrade node-1 <-> node-2: loss 50 %", (1, 2), 8),
]


def is_before(one: Bar, other: Bar) -> bool:
    """Whether ``one`` has ended when ``other`` begins."""
    return one.end is not None and one.end <= other.begin


class TestLanes:
    """:mod:`cluster.report.bars`."""

    def test_a_fault_ends_with_its_heal_or_its_nodes_return(self) -> None:
        assert bars(EVENTS) == [
            Bar("isolate node-1", (1, 2), T + 10, T + 20),
            Bar("kill node-2", (2,), T + 12, T + 22),
            Bar("pause node-1", (1,), T + 24, T + 26),
            Bar("degrade node-1 <-> node-2: loss 50 %", (1, 2), T + 28, None),
        ]

    def test_faults_without_a_number(self) -> None:
        events = [
            Event(1, "fault", "power cut node-1 node-2", (1, 2)),
            Event(2, "fault", "discovery service off"),
            Event(3, "power", "node-2 on", (2,)),
            Event(4, "heal", "discovery service on"),
            Event(5, "power", "node-1 on", (1,)),
            Event(6, "heal", "isolate node-9", (9,), 77),
        ]
        assert [(bar.begin, bar.end) for bar in bars(events)] == [(1, 5), (2, 4)]

    def test_what_is_no_fault_is_a_point(self) -> None:
        assert [point.what for point in points(EVENTS)] == [
            "node-1 on",
            "node-2 on",
            "node-2 off: signal 9",
            HOSTILE,
            "node-2 on",
        ]

    def test_as_text(self) -> None:
        assert text(EVENTS[:3], T) == (
            "     +1.0 s  power  node-1 on\n     +1.0 s  power  node-2 on\n    +10.0 s  fault  isolate node-1"
        )
        assert text([], T) == "(nothing happened to the cluster)"

    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=15))
    def test_bars_of_a_row_do_not_overlap_and_no_row_is_wasted(self, times: list[tuple[int, int]]) -> None:
        some = [Bar("x", (), begin, begin + length) for begin, length in sorted(times)]
        chosen = rows(some, 100)
        for one, row in zip(some, chosen, strict=True):
            for other, second in zip(some, chosen, strict=True):
                assert one is other or row != second or is_before(one, other) or is_before(other, one)
        spans = [(begin, begin + length) for begin, length in times]
        most = max((sum(begin <= at < end for begin, end in spans) for at in range(80)), default=0)
        assert len(set(chosen)) == most

    @given(st.floats(0.001, 1e6))
    def test_ticks_are_round_and_few(self, seconds: float) -> None:
        found = ticks(seconds)
        assert found[0] == 0
        assert 3 <= len(found) <= TICKS_MAX + 1
        assert all(tick < seconds for tick in found)


def story(test: str = "test_web.py::test_it", outcome: str = "failed") -> Story:
    """What a failed test reports."""
    phases = [("setup", T, T + 5), ("call", T + 5, T + 30), ("teardown", T + 30, T + 32)]
    finding: FindingData = {
        "kind": "panic",
        "node": "node-1",
        "source": "console",
        "line": 3,
        "text": HOSTILE,
        "context": [HOSTILE],
        "t": None,
    }
    return {
        "test": test,
        "outcome": outcome,
        "message": f"assert 1 == 2\n{HOSTILE}",
        "phases": [{"name": name, "begin": begin, "end": end} for name, begin, end in phases],
        "facts": {"seed": "41", "image": "ab" * 32, "reproduce": "pytest --cluster-seed=41 test_web.py::test_it"},
        "clusters": [
            {
                "name": "pytest-1-1",
                "nodes": ["node-1", "node-2"],
                "events": [
                    {"t": event.t, "kind": event.kind, "what": event.what, "nodes": list(event.nodes), "id": event.id}
                    for event in EVENTS
                ],
                "findings": [finding],
                "evidence": [
                    {"name": "node-1", "state": "running", "console": HOSTILE, "units": "web.service failed", "etcd": "| leader |"},
                    {"name": "node-2", "state": "off (signal 9)", "console": "", "units": "", "etcd": ""},
                ],
            }
        ],
    }  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    quiet = story(test="test_web.py::test_quiet", outcome="passed")
    quiet.pop("message")
    quiet["clusters"] = [{**quiet["clusters"][0], "findings": [], "evidence": [], "events": []}]
    path = tmp_path / "page.html"
    path.write_text(render([quiet, story()]), "utf-8")
    return path


def bar(see: Browser, what: str) -> Seen:
    return next(each for each in see.all("svg.lanes rect") if each.data["what"].startswith(what))


class TestPage:
    """:mod:`cluster.report.page`."""

    def test_failed_tests_come_first(self, see: Browser, page: Path) -> None:
        see.show(page)
        assert [each.text.split()[0] for each in see.all("article h2")] == [
            "test_web.py::test_it",
            "test_web.py::test_quiet",
        ]
        assert see.text("h1") == "2 tests on clusters"
        assert see.text("header p") == "1 failed"

    @pytest.mark.parametrize("width", [1280, 500])
    def test_bars_are_as_long_as_the_faults(self, width: int, see: Browser, page: Path) -> None:
        see.resize(width, 800)
        see.show(page)
        stage = see.all("svg.lanes")[0].box
        for what, begin, seconds in [
            ("setup", 0, 5),
            ("call", 5, 25),
            ("kill node-2", 12, 10),
            ("pause node-1", 24, 2),
        ]:
            box = bar(see, what).box
            assert box.w == pytest.approx(stage.w * seconds / 32, abs=1)
            assert box.x - stage.x == pytest.approx(stage.w * begin / 32, abs=1)
            assert stage.holds(box)
        assert bar(see, "degrade").box.x + bar(see, "degrade").box.w == pytest.approx(stage.x + stage.w, abs=1)
        assert_apart(see.all("article.failed svg.lanes rect"))
        assert see.run("return document.documentElement.scrollWidth <= innerWidth")

    def test_a_fault_stands_in_the_lane_of_each_node_it_hits(self, see: Browser, page: Path) -> None:
        see.show(page)
        first, second = bar(see, "pause node-1").box.y, bar(see, "kill node-2").box.y
        isolated = [each.box.y for each in see.all("svg.lanes rect") if each.data["what"].startswith("isolate")]
        assert len(isolated) == 2
        assert min(isolated) <= first < max(isolated)
        assert second >= max(isolated) - 1

    def test_points_say_what_they_are(self, see: Browser, page: Path) -> None:
        see.show(page)
        tips = [each.data["tip"] for each in see.all("article.failed circle")]
        assert f"{HOSTILE}\nmark at 15.0 s" in tips
        assert f"panic: {HOSTILE}\nfound at 30.0 s" in tips
        assert sum(tip.endswith("power at 1.0 s") for tip in tips) == 2

    def test_the_pointer_has_a_tooltip(self, see: Browser, page: Path) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        see.show(page)
        target = next(
            each
            for each in see.driver.find_elements("css selector", "svg.lanes svg")
            if "kill" in (each.get_attribute("data-tip") or "")
        )
        ActionChains(see.driver).move_to_element(target).perform()
        assert see.text(".tip").splitlines() == ["kill node-2", "from 12.0 s to 22.0 s"]

    def test_what_nodes_said_is_text(self, see: Browser, page: Path) -> None:
        see.show(page)
        see.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        said = see.text("main")
        for each in ("pytest --cluster-seed=41", "web.service failed", "| leader |", "node-2: off (signal 9)", HOSTILE):
            assert each in said
        assert see.text("article.failed pre").startswith("assert 1 == 2")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_can_be_read_by_day_and_by_night(self, scheme: str, see: Browser, page: Path) -> None:
        see.dress(scheme)
        see.show(page)
        pairs = see.run("""
            const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
            const bars = [...document.querySelectorAll("svg.lanes svg")].map((each) => [
                getComputedStyle(each.querySelector("text")).fill, getComputedStyle(each.querySelector("rect")).fill]);
            const papers = [...document.querySelectorAll(".outcome, dt, .lane-name")].map((each) => [
                each.closest("svg") ? getComputedStyle(each).fill : getComputedStyle(each).color,
                getComputedStyle(each.closest("svg") ?? document.body).backgroundColor]);
            return [...bars, ...papers].map((pair) => pair.map(numbers));""")
        assert len(pairs) > 10
        assert all(contrast(text, paper) >= 4.5 for text, paper in pairs)

    def test_without_scripts_it_says_the_same(self, see: Browser, page: Path) -> None:
        see.scripts(on=False)
        see.show(page)
        see.await_scripts(page.read_text("utf-8").count("<script"))
        see.scripts(on=True)
        assert "test_web.py::test_it" in see.text("main")
        assert see.all("svg.lanes svg")

    def test_a_session_without_clusters_is_a_page(self, see: Browser, tmp_path: Path) -> None:
        (tmp_path / "empty.html").write_text(render([]), "utf-8")
        see.show(tmp_path / "empty.html")
        assert see.text("h1") == "0 tests on clusters"
