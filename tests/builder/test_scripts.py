"""The review of maintainer scripts: what it finds, what it calls the same, and that ours is in order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core import data
from builder.debian.lockfile import Lock
from builder.lock import scripts
from builder.lock.scripts import Review, ReviewFailure, Script, accept, canonical, check, dump, load, parse, show

ONE, TWO = Script("tool", "postinst", "echo one\n"), Script("tool", "postinst", "echo two\n")
OTHER = Script("other", "prerm", "true\n")


def said(script: Script, reason: str = "read") -> Review:
    return Review(script.package, script.name, script.sha256, (), reason)


def kinds(present: list[Script], reviews: list[Review]) -> list[tuple[str, str]]:
    return [(each.kind, each.package) for each in check(present, reviews)]


def test_a_script_is_reviewed_new_or_changed_and_an_entry_without_script_is_stale() -> None:
    assert check([ONE, OTHER], [said(ONE), said(OTHER)]) == ()
    assert kinds([ONE, OTHER], [said(OTHER)]) == [("new", "tool")]
    assert kinds([TWO], [said(ONE), said(OTHER)]) == [("changed", "tool"), ("stale", "other")]


def test_two_locks_may_hold_two_versions_of_a_script() -> None:
    assert check([ONE, TWO], [said(ONE), said(TWO)]) == ()
    assert kinds([TWO], [said(ONE), said(TWO)]) == [("stale", "tool")]


def test_accepting_is_for_the_named_packages_and_drops_what_they_no_longer_need() -> None:
    after = accept([said(ONE, "old"), said(OTHER, "kept")], [TWO, OTHER], ["tool"], covered=["presets"], reviewed="new")
    assert after == (said(OTHER, "kept"), Review("tool", "postinst", TWO.sha256, ("presets",), "new"))
    assert check([TWO, OTHER], after) == ()


texts = st.sampled_from(["", "a", "b", "c"])
some = st.builds(Script, st.sampled_from(["p", "q"]), st.sampled_from(["preinst", "postinst"]), texts)


@given(st.frozensets(some), st.frozensets(some))
def test_accepting_all_leaves_nothing_to_be_found(before: frozenset[Script], now: frozenset[Script]) -> None:
    after = accept(map(said, before), now, ["p", "q"], covered=[], reviewed="read")
    assert check(now, after) == ()
    assert parse(dump(after)) == after
    assert accept(after, now, ["p", "q"], covered=[], reviewed="again") == after


def test_a_rebuild_with_another_debhelper_is_the_same_script() -> None:
    old = "# Automatically added by dh_installinit/13.24.1\nupdate-rc.d\n"
    assert canonical("tool", "postinst", old) == canonical("tool", "postinst", old.replace("13.24.1", "13.31"))
    trigger = "# Triggers added by dh_makeshlibs/13.20\nactivate-noawait ldconfig\n"
    assert canonical("tool", "triggers", trigger) == canonical("tool", "triggers", trigger.replace("13.20", "13.24.2"))
    assert canonical("tool", "postinst", old) != canonical("tool", "postinst", old.replace("update", "upgrade"))


def test_the_next_kernel_has_the_same_scripts_until_they_do_something_else() -> None:
    def kernel(release: str, words: str = "depmod") -> Script:
        return canonical(f"linux-image-{release}-cloud-amd64", "postinst", f"version={release}-cloud-amd64\n{words}\n")

    assert kernel("6.12.117+deb13") == kernel("6.12.120+deb13.1")
    assert kernel("6.12.117+deb13").package == "linux-image-RELEASE-cloud-amd64"
    assert kernel("6.12.117+deb13") != kernel("6.12.120+deb13", "rm -rf")
    meta = ["dir_to_symlink linux-image-6.12.117\\+deb13-amd64", "dir_to_symlink linux-image-6.12.120\\+deb13-amd64"]
    one, two = (canonical("linux-image-amd64", "preinst", text) for text in meta)
    assert one == two


def test_a_change_is_shown_as_a_diff_and_a_new_script_by_its_beginning() -> None:
    (changed,) = check([TWO], [said(ONE)])
    assert show(changed, ONE).splitlines() == [
        "tool: postinst is changed",
        *("    --- locked", "    +++ new", "    @@ -1 +1 @@", "    -echo one", "    +echo two"),
    ]
    assert show(changed, None).splitlines() == ["tool: postinst is changed", "    echo two"]
    (long,) = check([Script("tool", "postinst", "true\n" * 100)], [])
    assert show(long, None).splitlines()[-1] == "    ... 40 more lines: osbuild scripts --show tool"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "not an object"),
        ("{", "Expecting"),
        ('{"version": 2, "scripts": []}', "not an object with 'version': 1"),
        ('{"version": 1, "scripts": [{}]}', r"scripts\[0\]: not an object with package, script"),
        (dump([Review("a", "config", "0", (), " ")]), "neither covered by a step nor reviewed"),
        (dump([Review("a", "config", "0", ("preset",), "")]), "'preset' is no finishing step; there are accounts, "),
        (
            '{"version": 1, "scripts": [{"package": "a", "script": "b", "sha256": 1, "covered": [], "reviewed": "x"}]}',
            "text",
        ),
    ],
)
def test_a_broken_review_says_where(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


def test_a_broken_file_is_a_failure_with_a_way_out_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    assert load(tmp_path / "scripts.json") == ()
    (tmp_path / "scripts.json").write_text("{")
    with pytest.raises(ReviewFailure) as failure:
        load(tmp_path / "scripts.json")
    assert "git checkout" in (failure.value.hint or "")


def test_our_review_is_in_order_and_speaks_of_locked_packages_only() -> None:
    path = data.image() / "scripts.json"
    text = path.read_text()
    reviews = parse(text)
    assert dump(reviews) == text
    locks = [lock for lock in data.image().rglob("*.lock") if lock.name != "tools.lock"]
    locked = {canonical(package.name, "", "").package for lock in locks for package in Lock.load(lock).packages}
    assert {review.package for review in reviews} <= locked
    assert {step for review in reviews for step in review.covered} <= scripts.STEPS
