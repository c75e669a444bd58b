"""What goes, what stays, and whose bytes are saved."""

from __future__ import annotations

from builder.core.tree import Entry, Inline, Kind, Tree
from builder.finish.slim import slim


def tree_of(**sizes: int) -> Tree:
    """A file a keyword, '__' for a slash and '_' for a dot; its owner is the last word of the path."""
    paths = {name.replace("__", "/").replace("_", "."): size for name, size in sizes.items()}
    return Tree(
        Entry(path, Kind.FILE, 0o644, content=Inline(bytes(size)), owner=path.rpartition("/")[2])
        for path, size in paths.items()
    )


def test_exceptions_stay_and_bytes_are_counted_by_owner() -> None:
    tree = tree_of(
        usr__share__doc__a__copyright=10, usr__share__doc__a__news=20, usr__share__doc__b__news=5, usr__bin__a=1
    )
    patch = slim(tree, ["usr/share/doc/*", "!usr/share/doc/*/copyright"])
    assert patch.saved == {"news": 25}
    tree.apply(patch)
    assert [entry.path for entry in tree if entry.kind is Kind.FILE] == ["usr/bin/a", "usr/share/doc/a/copyright"]
    assert "usr/share/doc/b" not in tree  # left empty
    assert "usr/share/doc/a" in tree


def test_a_directory_goes_as_one() -> None:
    tree = tree_of(usr__share__zsh__x__y=3, usr__share__zshrc=4)
    assert slim(tree, ["usr/share/zsh"]).remove == ("usr/share/zsh",)


def test_nothing_to_do() -> None:
    assert slim(tree_of(a=1), []).remove == ()
    assert slim(Tree()).saved == {}


def test_the_default_list_keeps_what_boots_and_what_licences_ask_for() -> None:
    kept = tree_of(
        boot__vmlinuz=1,
        usr__share__doc__bash__copyright=1,
        usr__lib__python3_13__unittest__case_py=1,
        usr__lib__systemd__systemd=1,
        usr__share__pam__common=1,
        usr__share__zoneinfo__Etc__UTC=1,
    )
    kept.remove("boot")
    assert slim(kept).remove == ()
