"""D-Bus by hand, against a library that knows all of it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney import DBusAddress, Message, MessageType, Parser, new_error, new_method_call, new_method_return, new_signal

from guest import manager
from guest.conversation import Question

QUESTION = new_method_call(DBusAddress("/x", "a.b", "a.b"), "c")
QUESTION.header.serial = 1
GREETING = b"OK 0123456789abcdef0123456789abcdef\r\n"


def reply(signature: str, value: object) -> bytes:
    packed: bytes = new_method_return(QUESTION, "v", ((signature, value),)).serialise(serial=7)
    return packed


def parsed(question: Question) -> Message:
    assert question.greeting.startswith(b"\0AUTH EXTERNAL ")
    assert question.greeting.endswith(b"\r\nBEGIN\r\n")
    (found,) = Parser().feed(question.words)
    return found


def test_the_request_for_the_number_of_failed_units() -> None:
    message = parsed(manager.failed_units())
    fields = {str(key.name): value for key, value in message.header.fields.items()}
    assert message.header.message_type == MessageType.method_call
    assert fields == {
        "path": "/org/freedesktop/systemd1",
        "interface": "org.freedesktop.DBus.Properties",
        "member": "Get",
        "destination": "org.freedesktop.systemd1",
        "signature": "ss",
    }
    assert message.body == ("org.freedesktop.systemd1.Manager", "NFailedUnits")


@given(st.text("abcXYZ019-_.@:\\", min_size=1, max_size=60))
def test_the_request_for_any_units_state(name: str) -> None:
    message = parsed(manager.active_state(name))
    assert message.body == ("org.freedesktop.systemd1.Unit", "ActiveState")


def test_names_in_object_paths() -> None:
    assert manager.escaped("etcd.service") == "etcd_2eservice"
    assert manager.escaped("a-b@c.service") == "a_2db_40c_2eservice"
    assert manager.escaped("0x.mount") == "_30x_2emount"
    assert manager.escaped("") == "_"


@pytest.mark.parametrize(("signature", "value"), [("u", 0), ("u", 3), ("s", "active"), ("s", "")])
def test_answers(signature: str, value: object) -> None:
    heard = GREETING + reply(signature, value)
    found = manager.answer(heard)
    assert found is not None
    assert found.value == value
    for end in range(len(heard)):
        assert manager.answer(heard[:end]) is None


def test_a_refusal_is_an_answer_without_a_value() -> None:
    heard = GREETING + new_error(QUESTION, "org.example.No", "s", ("no",)).serialise(serial=7)
    found = manager.answer(heard)
    assert found is not None
    assert found.value is None


def test_signals_before_the_answer_are_passed_over() -> None:
    signal = new_signal(DBusAddress("/x", interface="a.b"), "Happened", "s", ("x" * 100,)).serialise(serial=3)
    found = manager.answer(GREETING + signal + reply("u", 2))
    assert found is not None
    assert found.value == 2


def test_nonsense_ends_it() -> None:
    for heard in (b"REJECTED EXTERNAL\r\nx", GREETING + b"B" * 64, GREETING + b"l\2\0\1" + b"\xff" * 60):
        with pytest.raises(ValueError):
            manager.answer(heard)
    with pytest.raises(ValueError, match="neither a number nor a text"):
        manager.answer(GREETING + reply("b", True))


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_end_in_an_answer_or_a_valueerror(data: bytes) -> None:
    for heard in (data, GREETING + data, GREETING + reply("u", 1)[:16] + data):
        with suppress(ValueError):
            manager.answer(heard)
