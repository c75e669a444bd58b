"""The registry against a dumb model of it, and each thing it refuses."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from discovery import registry as module
from discovery.registry import AlreadyRegistered, Full, Invalid, Registry, UnknownToken
from terminal import Failure

TOKEN = "0" * 32


def value(name: str) -> str:
    return f"{name}=http://{name}:2380"


class Tokens(RuleBasedStateMachine):
    """Any order of requests: indices only grow, one member is one event for ever, a reload changes nothing."""

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.now = 0.0
        self.model: dict[str, tuple[int, list[tuple[str, int]]]] = {}
        self.last = 1

    @rule(target=tokens, size=st.integers(1, 5))
    def new(self, size: int) -> str:
        name = f"{len(self.model):032x}"
        self.registry = self.registry.new(name, size, self.now)
        self.model[name] = (size, [])
        return name

    @rule(token=tokens, member=st.sampled_from("abcdef"))
    def register(self, token: str, member: str) -> None:
        _, members = self.model[token]
        before = self.registry
        try:
            self.registry = before.register(token, member, value(member), self.now)
        except AlreadyRegistered as refused:
            assert refused.same_id
            assert member in dict(members)
            assert self.registry is before
            return
        assert member not in dict(members)
        members.append((member, self.registry.index))

    @rule(token=tokens, back=st.integers(0, 20))
    def watch_from_anywhere(self, token: str, back: int) -> None:
        """A client that resumes after any event sees each later one, in order, once."""
        _, members = self.model[token]
        index = max(self.registry.index - back, 0)
        seen = []
        while (found := self.registry.token(token).since(index)) is not None:
            seen.append((found.id, found.index))
            index = found.index + 1
        assert seen == [one for one in members if one[1] >= self.registry.index - back]

    @rule()
    def reload(self) -> None:
        assert Registry.load(self.registry.dump(), where="test") == self.registry

    @rule()
    def nothing_is_old_enough(self) -> None:
        assert self.registry.expire(self.now) is self.registry

    @invariant()
    def the_index_only_grows(self) -> None:
        assert self.registry.index >= self.last
        self.last = self.registry.index

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        for name, (size, members) in self.model.items():
            token = self.registry.token(name)
            assert token.size == size
            assert [(member.id, member.index) for member in token.members] == members
            indices = [token.index, *(member.index for member in token.members)]
            assert indices == sorted(set(indices))
            assert indices[0] >= 2


TestTokens = Tokens.TestCase
TestTokens.settings = settings(max_examples=40, stateful_step_count=25)


@pytest.mark.parametrize("size", [0, -1, 65])
def test_sizes_that_no_cluster_has(size: int) -> None:
    with pytest.raises(Invalid, match="1 to 64"):
        Registry().new(TOKEN, size, 0)


def test_tokens_are_used_once_and_end() -> None:
    registry = Registry().new(TOKEN, 1, now_s=100)
    with pytest.raises(Invalid):
        registry.new(TOKEN, 1, 100)
    with pytest.raises(UnknownToken):
        registry.expire(101).token(TOKEN)
    touched = registry.register(TOKEN, "a", value("a"), now_s=150)
    assert touched.expire(101).token(TOKEN).members
    with pytest.raises(UnknownToken):
        touched.register("f" * 32, "a", value("a"), 0)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "a",
        "a=",
        "=http://a:1",
        "a=ftp://a:1",
        "a=http://a:1,",
        "a=http://a:1/path",
        "n=http://1.1.1.1:2380/",
        "n=http://1.1.1.1",
        "n=http://1.1.1.1:",
        "n=http://1.1.1.1:0",
        "n=http://1.1.1.1:99999",
        "n=http://1.1.1.1:abc",
        "n=http://1.1.1.1:١",
        "n=http://:2380",
        "n=http://user@a:2380",
        "n=http://a:2380?x",
        "n=http://a:2380#x",
        "n=http://[::1]",
        "n=http://[::1::2]:2380",
        "n=http://[]:2380",
        "n=http://::1:2380",
        "n=http://a%00:2380",
        "n\x1b[2J=http://a:2380",
        "n=http://a\x07:2380",
        "n\u202e=http://a:2380",
        "n=http://a:2380,m=http://b",
        "a=http://a b",
        "a=http://" + "x" * 1024,
    ],
)
def test_values_that_would_stop_every_other_member(bad: str) -> None:
    with pytest.raises(Invalid, match="NAME=URL"):
        Registry().new(TOKEN, 3, 0).register(TOKEN, "a", bad, 0)


@pytest.mark.parametrize("bad", ["", "_config", "a/b", "..", ".", "a" * 65, "a\n"])
def test_ids(bad: str) -> None:
    with pytest.raises(Invalid, match="id of a member"):
        Registry().new(TOKEN, 3, 0).register(TOKEN, bad, value("a"), 0)


def test_several_urls() -> None:
    both = "a=http://10.0.0.1:2380,a=http://10.0.1.1:2380"
    registry = Registry().new(TOKEN, 3, 0).register(TOKEN, "1", both, 0)
    assert registry.token(TOKEN).members[0].parts == [("a", "http://10.0.0.1:2380"), ("a", "http://10.0.1.1:2380")]


@pytest.mark.parametrize("clash", ["a=http://other:2380", "other=http://a:2380", "b=http://b:2380,b=http://a:2380"])
def test_a_second_machine_of_the_same_name_or_address_harms_only_itself(clash: str) -> None:
    registry = Registry().new(TOKEN, 3, 0).register(TOKEN, "1", value("a"), 0)
    with pytest.raises(AlreadyRegistered, match="is taken by 1") as refused:
        registry.register(TOKEN, "2", clash, 0)
    assert not refused.value.same_id


def test_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_MAX", 1)
    monkeypatch.setattr(module, "MEMBERS_MAX", 2)
    registry = Registry().new(TOKEN, 1, 0)
    with pytest.raises(Full):
        registry.new("f" * 32, 1, 0)
    for name in "ab":  # the second is beyond the size, and let in all the same
        registry = registry.register(TOKEN, name, value(name), 0)
    with pytest.raises(Full):
        registry.register(TOKEN, "c", value("c"), 0)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "[]",
            "{}",
            '{"v": 2}',
            '{"v": 1, "index": 1}',
            '{"v": 1, "index": 1, "tokens": {"a": {}}}',
            "[" * 100_000,
        ],
        '{"v": 1, "index": Infinity, "tokens": {}}',
        '{"v": 1, "index": "1", "tokens": {}}',
        '{"v": 1, "index": 1e999, "tokens": {}}',
        '{"v": 1, "index": -1, "tokens": {}}',
        '{"v": 1, "index": 1, "tokens": {"a": {"size": 1, "index": 1, "touched": "Infinity", "members": []}}}',
        '{"v": 1, "index": 1, "tokens": {"a": {"size": 1, "index": 1, "touched": NaN, "members": []}}}',
        '{"v": 1, "index": 1, "tokens": {"a": {"size": 0, "index": 1, "touched": 1, "members": []}}}',
        '{"v": 1, "index": 1, "tokens": {"a": {"size": 1, "index": 1, "touched": 1, "members": [["a", "b", 1]]}}}',
        '{"v": 1, "index": 1, "tokens": {"a": {"size": 1, "index": 1, "touched": 1, "members": [[1, 2, 3]]}}}',
    ],
)
def test_a_state_that_is_broken_is_not_taken_for_an_empty_one(text: str) -> None:
    with pytest.raises(Failure) as refused:
        Registry.load(text, where="/var/lib/tokens.json")
    assert refused.value.where == "/var/lib/tokens.json"
    assert refused.value.hint


@pytest.mark.parametrize("url", ["http://10.0.0.1:2380", "https://node-1.example:65535", "http://[fd00::1]:2380"])
def test_what_etcd_takes_is_taken(url: str) -> None:
    assert Registry().new(TOKEN, 3, 0).register(TOKEN, "a", f"a={url}", 0).token(TOKEN).members


def test_a_token_without_members_ends_sooner() -> None:
    registry = Registry().new(TOKEN, 1, now_s=100).new("f" * 32, 1, now_s=100).register(TOKEN, "a", value("a"), 100)
    assert set(registry.expire(0, empty_before_s=100).tokens) == {TOKEN, "f" * 32}
    assert set(registry.expire(0, empty_before_s=101).tokens) == {TOKEN}
