"""What a person sees of a build's pages, in a real browser: the map of sizes and the flame chart of timings."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from builder.about import sizes, timings
from builder.core.tree import Entry, Inline, Kind, Tree
from builder.debian.tools import Tools
from terminal import Span
from tests.browser import WIDE, Browser, Seen
from tests.builder.smallworld import World
from tests.builder.test_sizes import HOSTILE, package

pytestmark = pytest.mark.slow

PHONE = (390, 844)

FILES = [
    ("docker.io", "usr/sbin/dockerd", 400_000),
    ("docker.io", "usr/bin/proxy", 100_000),
    ("docker.io", "etc/docker.conf", 2_000),
    ("python3", "usr/lib/python3/os.py", 120_000),
    ("python3", "usr/lib/python3/json/decoder.py", 60_000),
    ("python3", "usr/lib/python3/json/encoder.py", 40_000),
    ("libc6", "usr/lib/libc.so.6", 150_000),
    ("linux-image", "usr/lib/modules/virtio.ko", 80_000),
    ("flotilla", "etc/motd", 30_000),
    ("odd", f"srv/{HOSTILE.replace('/', '')}", 20_000),
    *(("many", f"usr/share/many/{number}", 9) for number in range(300)),
]
TOTAL = sum(size for _, _, size in FILES)
PACKAGES = [
    package("docker.io", "admin", "26.1"),
    package("python3", "python"),
    package("libc6", "libs"),
    package("linux-image", "kernel"),
    package("many", "misc"),
]

SPANS = [
    Span(("check",), "", 0.0, 0.1, 0, 0),
    Span(("packages (3)",), "", 0.1, 6.0, 0, 0),
    *(Span(("packages (3)", "unpacking"), f"deb-{at}", 0.2 + at, 1.1 + at, 1 + at % 2, 0) for at in range(5)),
    Span(("tree",), "", 6.0, 8.0, 0, 0),
    Span(("tree", "slow steps"), "", 6.0, 7.5, 0, 1),
    Span(("tree", "slow steps", HOSTILE), "", 6.5, 7.0, 0, 2),
    Span(("tree", "writable"), "", 7.9, 7.9001, 0, 1),
]


@pytest.fixture
def map_page(tmp_path: Path) -> Path:
    what = Tree(Entry(path, Kind.FILE, content=Inline(b"x" * size), owner=owner) for owner, path, size in FILES)
    path = tmp_path / sizes.NAME
    path.write_text(sizes.render("node (qemu)", PACKAGES, what, [("root.img", 500_000)]), "utf-8")
    return path


@pytest.fixture
def chart_page(tmp_path: Path) -> Path:
    path = tmp_path / timings.NAME
    path.write_text(timings.render("node (qemu)", 8.2, SPANS), "utf-8")
    return path


def assert_apart(seen: list[Seen]) -> None:
    """None of them overlaps another."""
    for number, one in enumerate(seen):
        for two in seen[:number]:
            assert not one.box.overlaps(two.box), (one, two)


def assert_a_map(see: Browser, total: int) -> None:
    """Every area is its share of the map, groups and tiles; they fill it, apart from each other, tiles in their group."""
    (stage,) = see.all("#map")
    groups, tiles = see.all(".group"), see.all(".tile")
    assert_apart(groups)
    assert_apart(tiles)
    for kind in (groups, tiles):
        assert sum(int(each.data["bytes"]) for each in kind) == total
        for each in kind:
            assert stage.box.holds(each.box)
            expected = stage.box.area * int(each.data["bytes"]) / total
            # Browsers place edges on 64ths of a pixel, which a long and thin tile feels.
            assert each.box.area == pytest.approx(expected, rel=0.02, abs=2 + (each.box.w + each.box.h) / 32)
    for tile in tiles:
        assert sum(group.box.holds(tile.box) for group in groups) == 1


def names(see: Browser) -> list[str]:
    return [group.data["name"] for group in see.all(".group")]


def trail(see: Browser) -> list[str]:
    return [item.text for item in see.all("#trail li")]


# --- the map of sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [WIDE, PHONE, (800, 400)], ids=["wide", "phone", "low"])
@pytest.mark.parametrize("view", ["#p/", "#f/"], ids=["package", "folder"])
def test_areas_are_bytes_and_nothing_overlaps(view: str, size: tuple[int, int], see: Browser, map_page: Path) -> None:
    see.resize(*size)
    see.show(map_page, view)
    assert_a_map(see, TOTAL)
    assert see.run("return document.documentElement.scrollWidth <= innerWidth")
    (stage,) = see.all("#map")
    assert stage.box.w >= size[0] - 40
    assert stage.box.h >= 250


def test_the_map_of_a_real_build(see: Browser, tmp_path: Path, closure: Tools) -> None:
    world = World(tmp_path, closure)
    assert world.image("--quiet") == 0
    see.show(world.output / sizes.NAME)
    assert_a_map(see, see.run("return data.total"))
    assert "tool" in names(see)
    see.show(world.output / timings.NAME)
    assert "tree" in [span.data["name"] for span in see.all(".span")]


def test_labels_say_what_it_is(see: Browser, map_page: Path) -> None:
    see.show(map_page)
    assert names(see)[:3] == ["docker.io", "python3", "libc6"]
    assert "docker.io 0.5 MB" in [chip.text for chip in see.all(".chip")]
    labels = [label.text for label in see.all(".label")]
    assert {"dockerd", "proxy", "os.py", "libc.so.6"} <= set(labels) | {chip.text for chip in see.all(".chip")}
    # No label lies over another, or out of its tile.
    assert_apart([*see.all(".label"), *see.all(".chip")])
    assert see.text("h1") == "node (qemu)"
    assert "1.0 MB in 310 files of 7 packages" in see.text("header p")
    rows = [row.text.split() for row in see.all(".tables section:first-child tbody tr")]
    assert rows[0] == ["docker.io", "26.1", "system", "0.5", "MB", "50.0", "%"]
    assert [row[0] for row in rows] == ["docker.io", "python3", "libc6", "linux-image", "flotilla", "odd", "many"]


def test_a_click_zooms_in_and_back_goes_out(see: Browser, map_page: Path) -> None:
    see.show(map_page)
    see.element('.group[data-name="python3"]').click()
    assert trail(see) == ["all packages", "python3"]
    # What is most of the folder above stands in its place.
    assert names(see) == ["usr/lib/python3/os.py", "usr/lib/python3/json/"]
    assert_a_map(see, 220_000)
    see.element('.group[data-name="usr/lib/python3/json/"]').click()
    assert trail(see) == ["all packages", "python3", "usr", "lib", "python3", "json"]
    assert names(see) == ["decoder.py", "encoder.py"]
    see.element('.group[data-name="decoder.py"]').click()
    assert see.text("#description").startswith("/usr/lib/python3/json/decoder.py")
    see.driver.back()
    see.until(lambda: trail(see) == ["all packages", "python3"])
    see.element("#trail a").click()
    see.until(lambda: "docker.io" in names(see))


def test_the_keyboard_does_all_of_it(see: Browser, map_page: Path) -> None:
    see.show(map_page)

    def press(*keys: str) -> str:
        ActionChains(see.driver).send_keys(*keys).perform()
        return str(see.run("return document.activeElement.dataset.name ?? document.activeElement.id"))

    for _ in range(30):  # to the map: past the buttons
        if press(Keys.TAB) == "docker.io":
            break
    assert see.text("#description").startswith("docker.io 26.1")
    assert press(Keys.ARROW_RIGHT) == "python3"
    assert press(Keys.ARROW_LEFT) == "docker.io"
    assert press(Keys.END) == names(see)[-1]
    assert press(Keys.HOME) == "docker.io"
    assert press(Keys.ARROW_RIGHT, Keys.ENTER) == "usr/lib/python3/os.py"
    assert trail(see) == ["all packages", "python3"]
    assert press(Keys.END, Keys.ENTER) == "decoder.py"
    assert press(Keys.ESCAPE) == "usr/lib/python3/json/"
    assert press(Keys.BACKSPACE) == "python3"
    assert trail(see) == ["all packages"]
    assert press("/") == "search"
    assert press("python", Keys.ESCAPE) == "docker.io"
    assert see.all(".dim") == []


def test_the_pointer_has_a_tooltip(see: Browser, map_page: Path) -> None:
    see.show(map_page)
    tile = see.driver.find_element("xpath", "//div[@class='label' and text()='proxy']/..")
    ActionChains(see.driver).move_to_element(tile).perform()
    assert see.text(".tip").splitlines() == [
        "/usr/bin/proxy",
        "0.1 MB, 10.0 % of all",
        "in docker.io 26.1, 0.5 MB, 50.0 % of all, 3 files",
    ]
    (tip,) = see.all(".tip")
    assert tip.box.x >= 0
    assert tip.box.x + tip.box.w <= WIDE[0]
    ActionChains(see.driver).move_to_element(see.element("h1")).perform()
    assert see.text(".tip") == ""


def test_the_search_finds_files_and_packages(see: Browser, map_page: Path) -> None:
    see.show(map_page)
    see.element("#search").send_keys("JSON py")
    assert see.text("#count") == "2 files, 0.1 MB"
    assert [item.text for item in see.all("#found li")] == [
        "/usr/lib/python3/json/decoder.py 0.1 MB, python3",
        "/usr/lib/python3/json/encoder.py 40.0 kB, python3",
    ]
    assert sum(int(tile.data["bytes"]) for tile in see.all(".tile.found")) == 100_000
    assert sum(int(tile.data["bytes"]) for tile in see.all(".tile.dim")) == TOTAL - 100_000
    see.element("#found a").click()
    see.until(lambda: trail(see)[-1] == "json")
    see.element("#search").clear()
    see.element("#search").send_keys("nothing of that name")
    assert see.text("#count") == "0 files, 0 B"


def test_the_legend_lists_kinds_and_picks_them_out(see: Browser, map_page: Path) -> None:
    see.show(map_page)
    legend = [button.text for button in see.all(".legend button")]
    assert legend == [
        "system 0.5 MB",
        "languages 0.2 MB",
        "libraries 0.1 MB",
        "kernel 0.1 MB",
        "our own 30.0 kB",
        "other 20.0 kB",
        "tools 2.7 kB",
    ]
    colours = see.run(
        "return [...document.querySelectorAll('.legend .swatch')].map((each) => getComputedStyle(each).backgroundColor)"
    )
    assert len(set(colours)) == len(legend)
    see.element(".legend button.kernel").click()
    assert {frozenset(tile.classes) for tile in see.all(".tile.hit")} == {frozenset({"tile", "kernel", "hit"})}
    assert see.text("#count") == "1 file, 0.1 MB"
    see.element(".legend button.kernel").click()
    assert see.all(".dim") == []


def test_by_folder(see: Browser, map_page: Path) -> None:
    see.show(map_page)
    see.element('.views button[value="f"]').click()
    assert trail(see) == ["/"]
    # At once, not when the browser comes to report the address.
    by_package = see.run("""
        document.querySelector('.views button[value="p"]').click();
        return document.querySelector("#trail").innerText;""")
    assert by_package == "all packages"
    see.element('.views button[value="f"]').click()
    assert {"usr/sbin/", "usr/lib/", "etc/"} <= set(names(see))
    assert_a_map(see, TOTAL)


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2.1, "contrast ratio", of two colours in 0..255."""

    def luminance(colour: list[float]) -> float:
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["map_page", "chart_page"])
def test_it_can_be_read_by_day_and_by_night(
    name: str, scheme: str, see: Browser, request: pytest.FixtureRequest
) -> None:
    see.dress(scheme)
    see.show(request.getfixturevalue(name))
    pairs = see.run("""
        const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
        return [...document.querySelectorAll("body, .tile, .span, .chip")].map((each) => {
            const style = getComputedStyle(each);
            return [numbers(style.color), numbers(style.backgroundColor)];
        });""")
    assert len(pairs) > 5
    assert all(contrast(text, paper) >= 4.5 for text, paper in pairs)
    is_dark = sum(pairs[0][1]) < 3 * 128
    assert is_dark == (scheme == "dark")


@pytest.mark.parametrize("name", ["map_page", "chart_page"])
def test_without_scripts_there_are_tables(name: str, see: Browser, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(name)
    see.scripts(on=False)
    see.show(page)
    see.await_scripts(page.read_text("utf-8").count("<script"))
    see.scripts(on=True)  # for the test's own questions; the page's script has had its chance
    text = see.text("main")
    assert "needs scripts, which are switched off here" in text
    assert ("docker.io" if name == "map_page" else "packages (3)") in text
    assert not see.element("#explorer").is_displayed()


def test_an_empty_map_is_a_page(see: Browser, tmp_path: Path) -> None:
    (tmp_path / "empty.html").write_text(sizes.render("nothing", [], Tree(), []), "utf-8")
    see.show(tmp_path / "empty.html")
    assert "0 B in 0 files" in see.text("header p")


@pytest.mark.parametrize("fragment", ["#f/no/such", "#p/%E0%A4%A", "#x", "#p/docker.io/usr/sbin/dockerd"])
def test_any_address_shows_something(fragment: str, see: Browser, map_page: Path) -> None:
    see.show(map_page, fragment)
    assert see.all(".tile")


# --- the flame chart -------------------------------------------------------------------------------------------------


def bar(see: Browser, name: str) -> Seen:
    return next(each for each in see.all(".span") if each.data["name"] == name)


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_widths_are_seconds_and_steps_lie_below_their_phase(
    size: tuple[int, int], see: Browser, chart_page: Path
) -> None:
    see.resize(*size)
    see.show(chart_page)
    (chart,) = see.all("#chart")
    spans = see.all(".span")
    assert_apart(spans)
    for each in spans:
        assert chart.box.holds(each.box)
        assert each.box.w == pytest.approx(chart.box.w * float(each.data["seconds"]) / 8.2, abs=1)
    tree, slow = bar(see, "tree").box, bar(see, "slow steps").box
    assert slow.y > tree.y
    assert tree.x - 0.5 <= slow.x < slow.x + slow.w <= tree.x + tree.w + 0.5
    assert [lane.text for lane in see.all(".lane h3")] == ["thread 1", "thread 2"]
    assert bar(see, "unpacking deb-0").box.y == bar(see, "unpacking deb-2").box.y
    assert bar(see, "unpacking deb-0").box.y != bar(see, "unpacking deb-1").box.y
    assert bar(see, "packages (3)").text == "packages (3) 5.90 s"
    assert see.run("return document.documentElement.scrollWidth <= innerWidth")


def test_a_click_fills_the_chart_with_a_step(see: Browser, chart_page: Path) -> None:
    see.show(chart_page)
    assert "writable" not in [span.data["name"] for span in see.all(".span")]  # a tenth of a millisecond
    see.element('.span[data-name="tree"]').click()
    (chart,) = see.all("#chart")
    assert bar(see, "tree").box.w == pytest.approx(chart.box.w, abs=1)
    assert trail(see) == ["the whole build", "tree"]
    assert see.text("#description").split()[:3] == ["tree", "2.00", "s,"]
    assert see.all("#axis span")[0].text == "6.0 s"
    see.element("#trail a").click()
    assert bar(see, "tree").box.w == pytest.approx(chart.box.w * 2 / 8.2, abs=1)


def test_the_chart_by_keyboard(see: Browser, chart_page: Path) -> None:
    see.show(chart_page)

    def press(*keys: str) -> str:
        ActionChains(see.driver).send_keys(*keys).perform()
        return str(see.run("return document.activeElement.dataset.name ?? ''"))

    for _ in range(5):
        if press(Keys.TAB) == "check":
            break
    assert press(Keys.ARROW_RIGHT) == "packages (3)"
    assert press(Keys.ARROW_RIGHT) == "tree"
    assert press(Keys.ARROW_DOWN) == "slow steps"
    assert see.text("#description").endswith("in tree")
    assert press(Keys.ENTER) == "slow steps"
    assert trail(see)[-1] == "slow steps"
    assert press(Keys.ESCAPE) == "slow steps"
    assert trail(see) == ["the whole build"]
    assert press(Keys.ARROW_UP) == "tree"


def test_the_chart_has_tooltips_and_a_table(see: Browser, chart_page: Path) -> None:
    see.show(chart_page)
    ActionChains(see.driver).move_to_element(see.element('.span[data-name="unpacking deb-1"]')).perform()
    assert see.text(".tip").splitlines() == [
        "unpacking deb-1",
        "0.90 s, 11.0 % of all, from 1.20 s on",
        "in packages (3)",
    ]
    rows = [row.text.split() for row in see.all("tbody tr")]
    assert rows[0] == ["packages", "(3)", "5.900", "72", "%"]
    assert rows[1] == ["unpacking", "4.500", "55", "%", "5"]
    assert rows[-1] == ["total", "8.200", "100", "%"]
