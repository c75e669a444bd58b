"""Which variables of a unit hold a secret, by their names and values: those do, and what only looks like it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitfile.lint import WARNING, lint
from unitfile.secret import exposed


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("DB_PASSWORD=hunter2", ["DB_PASSWORD"]),
        ("PGPASSWORD=x REDIS_PASS=y", ["PGPASSWORD", "REDIS_PASS"]),
        ('"GITHUB_TOKEN=ghp_a b" MODE=fast', ["GITHUB_TOKEN"]),
        ("'api_key=sk-0123'", ["api_key"]),
        ("CLIENT_SECRET=%%a", ["CLIENT_SECRET"]),
        ("AWS_SECRET_ACCESS_KEY=a/b+c=", ["AWS_SECRET_ACCESS_KEY"]),
        ("APIKEY=1a PASSPHRASE=12345", ["APIKEY", "PASSPHRASE"]),
        ('A=b TOKEN=x "open', ["TOKEN"]),
    ],
)
def test_a_secret(value: str, names: list[str]) -> None:
    assert list(exposed(value)) == names


@pytest.mark.parametrize(
    "value",
    [
        *("", "A", "PASSWORD", "TOKEN=", "HOST=db"),
        *(
            "DB_PASSWORD_FILE=/run/secrets/db",
            "PASSWORD=/run/secrets/db",
            "TOKEN=%d/token",
            "TOKEN=%i",
            "SECRET=$SECRET",
        ),
        *("ALLOW_EMPTY_PASSWORD=yes", "REQUIRE_TOKEN=False", "SECRET_NAME=db", "TOKEN_TTL=60", "KEY_ID=7"),
        *(
            "KEYMAP=de",
            "MONKEY=x",
            "COMPASS=n",
            "BYPASS=x",
            "PUBLIC_KEY=x",
            "PARTITION_KEY=user",
            "DEPLOY_KEY=ssh-ed25519 A",
        ),
        'HOST_SSH_KEY="ssh-ed25519 AAAA me"',
    ],
)
def test_no_secret(value: str) -> None:
    assert list(exposed(value)) == []


def test_the_linter_names_the_variable_and_never_the_value() -> None:
    text = "[Service]\nExecStart=/bin/true\nEnvironment=MODE=fast \\\n  DB_PASSWORD=hunter2\nEnvironmentFile=/etc/app\n"
    (one,) = lint("a.service", text)
    assert (one.line, one.column, one.severity) == (3, 13, WARNING)
    assert one.message == "Environment= has the value of DB_PASSWORD, which any local user can read"
    assert "LoadCredential=" in one.hint
    assert "hunter2" not in f"{one}"


@given(st.text(), st.text())
def test_any_text(name: str, value: str) -> None:
    assert len(list(exposed(f"{name}={value}"))) <= len(name) + len(value)
