"""[X-Fleet]: values, old names, specifiers, and contradictions."""

from __future__ import annotations

import pytest

from fleet.model.entities import Desired, Unit
from fleet.model.requirements import Requirements, RequirementsError, check_unit, short_id_matches
from unitfile.name import UnitName, UnitNameError
from unitfile.text import UnitFile


def parse(text: str, name: str = "x@1.service") -> Requirements:
    return Requirements.parse(UnitName.parse(name), UnitFile.parse(f"[X-Fleet]\n{text}\n"))


def test_no_requirements() -> None:
    assert parse("") == Requirements()


def test_each_option() -> None:
    assert parse("MachineID=abc").machine_id == "abc"
    assert parse("MachineOf=a.service\nMachineOf=b.service").machine_of == ("a.service", "b.service")
    assert parse('MachineOf="a.service" "b.service"').machine_of == ("a.service", "b.service")
    assert parse("Conflicts=a.* b@*.service\nConflicts=c.service").conflicts == ("a.*", "b@*.service", "c.service")
    assert parse("Replaces=old@*").replaces == ("old@*",)


def test_metadata_is_or_within_a_key_and_and_between_keys() -> None:
    wanted = parse('MachineMetadata=disk=ssd\nMachineMetadata="disk=nvme" "zone=a b"').metadata
    assert wanted == {"disk": frozenset({"ssd", "nvme"}), "zone": frozenset({"a b"})}


@pytest.mark.parametrize("text", ["true", "YES", "1", "on", "T"])
def test_true(text: str) -> None:
    assert parse(f"Global=false\nGlobal={text}").global_


def test_old_names_count_less_than_new_ones() -> None:
    assert parse("X-ConditionMachineID=old\nMachineID=new").machine_id == "new"
    assert parse("X-ConditionMachineBootID=boot").machine_id == "boot"
    assert parse("X-ConditionMachineMetadata=a=b").metadata == {"a": frozenset("b")}
    assert parse("X-Conflicts=a.service").conflicts == ("a.service",)


def test_specifiers() -> None:
    assert parse("Conflicts=%p@*.service").conflicts == ("x@*.service",)
    assert parse("MachineMetadata=host=%i").metadata == {"host": frozenset("1")}
    assert parse("MachineID=%m").machine_id == "%m"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Conflict=a", r"\[X-Fleet\] has no option Conflict"),
        ("Global=maybe", "neither true nor false"),
        ("MachineMetadata=disk", "not of the form key=value"),
        ("MachineMetadata=a=b=c", "not of the form key=value"),
        ('MachineMetadata="a=b', "quote is left open"),
        ("MachineOf=a.service b.service", "MachineOf names no unit"),
        ("MachineID=a\nConflicts=b", "MachineID with Conflicts"),
        ("MachineID=a\nGlobal=true", "MachineID with Global"),
        ("MachineID=a\nMachineOf=b.service", "MachineID with MachineOf"),
        ("Global=true\nMachineOf=b.service", "Global with MachineOf"),
        ("Global=true\nReplaces=b", "Global with Replaces"),
        ("Conflicts=a\nReplaces=b", "Conflicts with Replaces"),
        ("MachineOf=a.service\nConflicts=a.*", "MachineOf=a.service with Conflicts or Replaces"),
        ("MachineOf=x@1.service", "the unit itself"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(RequirementsError, match=why):
        parse(text)


def test_the_nearest_name_is_reported_with_the_line() -> None:
    with pytest.raises(RequirementsError) as caught:
        parse("Conflict=a")
    assert caught.value.where == "x@1.service line 2"
    assert caught.value.hint == "the nearest is Conflicts"


def test_global_goes_with_conflicts_and_metadata() -> None:
    parse("Global=true\nConflicts=a\nMachineMetadata=a=b")


def test_short_ids() -> None:
    assert short_id_matches("12345678", "123456789abc")
    assert short_id_matches("123456789abc", "123456789abc")
    assert not short_id_matches("1234567", "123456789abc")
    assert not short_id_matches("123456789", "123456789abc")


class TestCheckUnit:
    """What is refused before it is stored."""

    good = UnitFile.parse("[Service]\nExecStart=/bin/a\n")

    def test_a_good_one(self) -> None:
        assert check_unit(Unit.of("x.service", self.good, Desired.LAUNCHED)) == Requirements()

    def test_a_template_cannot_run(self) -> None:
        check_unit(Unit.of("x@.service", self.good))
        with pytest.raises(RequirementsError, match="cannot be launched") as caught:
            check_unit(Unit.of("x@.service", self.good, Desired.LAUNCHED))
        assert caught.value.hint == "name an instance of it: x@1.service"

    @pytest.mark.parametrize("name", ["x.device", "x.scope", "../x.service", "x"])
    def test_names_that_cannot_run(self, name: str) -> None:
        with pytest.raises(UnitNameError):
            check_unit(Unit.of(name, self.good))

    def test_an_empty_file(self) -> None:
        with pytest.raises(RequirementsError, match="no options"):
            check_unit(Unit.of("x.service", UnitFile.parse("# nothing\n")))


@pytest.mark.parametrize(
    "lines",
    [
        "Conflicts=a\n" * 1001,
        "Conflicts=" + "a " * 1001,
        "MachineOf=a.service\n" * 1001,
        "MachineMetadata=" + '\\"' * 40_000,
        "Replaces=" + "%n" * 40_000,
    ],
)
def test_what_would_keep_every_machine_busy_is_refused(lines: str) -> None:
    with pytest.raises(RequirementsError, match="has more than"):
        Requirements.parse(UnitName.parse("a.service"), UnitFile.parse(f"[X-Fleet]\n{lines}\n"))
