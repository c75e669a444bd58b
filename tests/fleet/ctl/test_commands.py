"""Each command through its real entry point: exit code, stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etcd.errors import NoSpace, Unavailable
from fleet.ctl import session
from tests.eventually import WITHIN_S

A = "a" * 32
Fleetctl = Any  # tests/fleet/ctl/conftest.py, which importlib mode keeps out of reach
UnitFile = Callable[..., Path]


class TestLists:
    def test_list_machines(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("list-machines") == (
            0,
            "MACHINE      IP          METADATA\naaaaaaaa...  10.77.0.11  az=1,disk=ssd\nbbbbbbbb...  10.77.0.12  -\n",
            "",
        )

    def test_list_machines_full_without_legend_by_a_shortened_name(self, fleetctl: Fleetctl) -> None:
        said = fleetctl("list-m", "-l", "--no-legend", "--fields", "ip,machine")
        assert said == (0, f"10.77.0.11  {A}\n10.77.0.12  {'b' * 32}\n", "")

    def test_list_machines_json(self, fleetctl: Fleetctl) -> None:
        said = fleetctl("list-machines", "--json")
        assert json.loads(said.out)[0] == {"machine": A, "ip": "10.77.0.11", "metadata": {"az": "1", "disk": "ssd"}}

    def test_list_units_and_files(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        unit_file("everywhere.service", "[Service]\nExecStart=/bin/true\n\n[X-Fleet]\nGlobal=true\n")
        unit_file("idle.service")
        fleetctl("submit", "idle.service")
        fleetctl("start", "hello.service", "everywhere.service")
        assert fleetctl("list-units").out == (
            "UNIT                MACHINE                 ACTIVE  SUB\n"
            "everywhere.service  aaaaaaaa.../10.77.0.11  active  running\n"
            "everywhere.service  bbbbbbbb.../10.77.0.12  active  running\n"
            "hello.service       aaaaaaaa.../10.77.0.11  active  running\n"
        )
        assert fleetctl("list-unit-files", "--fields", "unit,global,dstate,state,target,desc").out == (
            "UNIT                GLOBAL  DSTATE    STATE     TARGET                  DESC\n"
            "everywhere.service  true    launched  -         global                  -\n"
            "hello.service       false   launched  launched  aaaaaaaa.../10.77.0.11  Hello\n"
            "idle.service        false   inactive  inactive  -                       Hello\n"
        )
        assert fleetctl("list-units", "--json").code == 0
        assert (
            next(each["unit"] for each in json.loads(fleetctl("list-unit-files", "--json").out)) == "everywhere.service"
        )

    def test_a_description_cannot_command_the_terminal(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file(text="[Unit]\nDescription=a\x1b[2Jb\n[Service]\nExecStart=/bin/true\n")
        fleetctl("submit", "hello.service")
        assert fleetctl("list-unit-files", "--no-legend", "--fields", "desc").out == "a?[2Jb\n"

    def test_lists_of_nothing_are_a_header(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("list-units") == (0, "UNIT  MACHINE  ACTIVE  SUB\n", "")
        assert fleetctl("list-unit-files", "--no-legend") == (0, "", "")

    def test_an_unknown_field_is_wrong_usage(self, fleetctl: Fleetctl) -> None:
        said = fleetctl("list-units", "--fields", "unit,colour")
        assert said.code == 2
        assert "no such field: colour" in said.err
        assert "choose of unit,machine,load,active,sub,hash" in said.err


class TestSubmitAndCat:
    def test_submit_then_cat(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file(text="# a comment\n[Service]\nExecStart=/bin/true\n")
        assert fleetctl("submit", "hello.service") == (0, "Unit hello.service inactive\n", "")
        assert fleetctl("cat", "hello") == (0, "[Service]\nExecStart=/bin/true\n", "")

    def test_a_unit_commands_no_terminal_and_a_file_gets_it_as_it_is(
        self, fleetctl: Fleetctl, unit_file: UnitFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unit_file(text="[Service]\nExecStart=/bin/echo \x1b]0;mine\x07\n")
        assert fleetctl("submit", "hello.service").code == 0
        assert fleetctl("cat", "hello").out == "[Service]\nExecStart=/bin/echo \x1b]0;mine\x07\n"
        screen, terminal = os.openpty()
        with os.fdopen(screen, "rb", buffering=0) as shown, os.fdopen(terminal, "w") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            assert fleetctl("cat", "hello").code == 0
            assert shown.read(1000) == b"[Service]\r\nExecStart=/bin/echo ?]0;mine?\r\n"

    def test_cat_of_nothing(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("cat", "hello.service") == (
            1,
            "",
            (
                "fleetctl: error: no such unit in the cluster: hello.service\n\n"
                "hint: see the names with: fleetctl list-unit-files\n"
            ),
        )

    @pytest.mark.parametrize("verb", ["cat", "why", "status", "journal", "stop", "unload", "restart", "destroy", "start", "load"])  # fmt: skip
    def test_a_mistyped_name_gets_a_suggestion(self, fleetctl: Fleetctl, unit_file: UnitFile, verb: str) -> None:
        unit_file()
        fleetctl("submit", "hello.service")
        said = fleetctl(verb, "helo.service")
        assert said.code == 1
        assert said.err.endswith("\n\nhint: did you mean hello.service?\n")

    def test_a_changed_file_is_only_a_warning_without_replace(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl("submit", "hello.service")
        unit_file(text="[Service]\nExecStart=/bin/true\n")
        assert fleetctl("submit", "hello.service") == (
            0,
            "Unit hello.service inactive\n",
            "warning: unit hello.service in the cluster differs from hello.service; use --replace to store the file\n",
        )
        assert "sleep" in fleetctl("cat", "hello.service").out
        assert fleetctl("submit", "--replace", "hello.service").code == 0
        assert fleetctl("cat", "hello.service").out == "[Service]\nExecStart=/bin/true\n"
        assert fleetctl("submit", "--replace", "hello.service").err == "unit hello.service has this text already\n"

    def test_submit_does_not_replace_a_running_unit(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl("start", "hello.service")
        unit_file(text="[Service]\nExecStart=/bin/true\n")
        said = fleetctl("submit", "--replace", "hello.service")
        assert said.code == 1
        assert "unit hello.service is launched, so submit does not replace it" in said.err
        assert fleetctl("start", "--replace", "hello.service").code == 0
        assert fleetctl("cat", "hello.service").out == "[Service]\nExecStart=/bin/true\n"


class TestStart:
    def test_start(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        said = fleetctl("start", "hello.service")
        assert said == (0, "Unit hello.service launched on aaaaaaaa.../10.77.0.11\n", "")
        assert fleetctl("start", "hello.service") == said, "again changes nothing and says the same"

    def test_a_slow_unit_is_waited_for(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(
            fleetctl, [("activating", "start-pre")] * 20 + [("active", "running")]
        )
        assert fleetctl("start", "hello.service") == (
            0,
            "Unit hello.service launched on aaaaaaaa.../10.77.0.11\n",
            "waiting for unit hello.service to run: it is activating (start-pre)\n",
        )

    def test_a_unit_that_fails(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(fleetctl, [("activating", "start"), ("failed", "failed")])
        said = fleetctl("start", "hello.service")
        assert said.code == 1
        assert said.err.splitlines()[-3:] == [
            "fleetctl: error: unit hello.service is failed (failed)",
            "",
            "hint: see: fleetctl journal hello.service; correct it, then: fleetctl restart hello.service",
        ]

    def test_a_unit_that_finishes(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(
            fleetctl, [("activating", "start"), ("activating", "start"), ("inactive", "dead")]
        )
        said = fleetctl("start", "hello.service")
        assert said.code == 0
        assert said.out.endswith("Unit hello.service has finished: it is inactive (dead)\n")

    def test_a_unit_that_no_machine_can_take(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(
            fleetctl, reason="no machine has metadata disk=tape (2 machines)"
        )
        assert fleetctl("start", "--block-attempts", "1", "hello.service") == (
            1,
            "",
            (
                "waiting for unit hello.service to be launched: no machine has metadata disk=tape (2 machines)\n"
                "fleetctl: error: gave up after 0.05 s, waiting for unit hello.service to be launched: "
                "no machine has metadata disk=tape (2 machines)\n\n"
                "hint: ask: fleetctl why hello.service\n"
            ),
        )
        assert fleetctl("start", "--no-block", "hello.service") == (
            0,
            "Triggered unit hello.service start\n",
            "warning: unit hello.service is on no machine: no machine has metadata disk=tape (2 machines)\n",
        )
        assert fleetctl("why", "hello.service") == (
            0,
            (
                "hello.service: desired launched, current inactive, on no machine\n"
                "  no machine has metadata disk=tape (2 machines)\n"
            ),
            "",
        )

    @pytest.mark.slow
    def test_a_unit_that_its_machine_cannot_load(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(
            fleetctl, [("inactive", "dead")], error="the start job was refused"
        )
        said = fleetctl("start", "hello.service")
        assert said.code == 1
        assert "unit hello.service cannot be started: the start job was refused" in said.err

    def test_a_global_unit_is_not_waited_for(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file("g.service", "[Service]\nExecStart=/bin/true\n\n[X-Fleet]\nGlobal=true\n")
        assert fleetctl("start", "g.service") == (0, "Triggered global unit g.service start\n", "")

    def test_an_instance_by_a_symbolic_link(self, fleetctl: Fleetctl, unit_file: UnitFile, folder: Path) -> None:
        unit_file("units/redis.service")
        (folder / "units/polop@redis.service").symlink_to("redis.service")
        said = fleetctl("start", "units/polop@redis.service")
        assert said == (0, "Unit polop@redis.service launched on aaaaaaaa.../10.77.0.11\n", "")
        assert "sleep 1000" in fleetctl("cat", "polop@redis.service").out

    def test_an_instance_of_a_template_beside_the_path_or_in_the_cluster(
        self, fleetctl: Fleetctl, unit_file: UnitFile
    ) -> None:
        template = unit_file("units/web@.service")
        assert fleetctl("start", "units/web@1.service").code == 0
        assert fleetctl("submit", "units/web@.service").code == 0
        template.unlink()
        assert fleetctl("start", "web@2.service").code == 0

    def test_a_template_cannot_be_started(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file("web@.service")
        said = fleetctl("start", "web@.service")
        assert said.code == 1
        assert "hint: start an instance of it: web@1.service" in said.err

    def test_load(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        assert fleetctl("load", "hello.service") == (0, "Unit hello.service loaded on aaaaaaaa.../10.77.0.11\n", "")


class TestTakeDown:
    @pytest.fixture(autouse=True)
    def _running(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl("start", "hello.service")

    def test_stop_unload_destroy(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("stop", "hello.service") == (0, "Unit hello.service loaded on aaaaaaaa.../10.77.0.11\n", "")
        assert fleetctl("unload", "hello.service") == (0, "Unit hello.service inactive\n", "")
        assert fleetctl("stop", "hello.service").code == 1
        assert fleetctl("destroy", "hello.service") == (0, "Destroyed hello.service\n", "")
        assert fleetctl("destroy", "hello.service").code == 1
        assert fleetctl("list-unit-files", "--no-legend").out == ""

    def test_restart(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("restart", "hello.service").out.splitlines() == [
            "Unit hello.service loaded on aaaaaaaa.../10.77.0.11",
            "Unit hello.service launched on aaaaaaaa.../10.77.0.11",
        ]

    def test_no_block(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("stop", "--no-block", "hello.service").out == "Triggered unit hello.service stop\n"

    def test_a_missing_unit_fails_but_the_others_are_done(self, fleetctl: Fleetctl) -> None:
        for verb in ("stop", "unload", "destroy"):
            said = fleetctl(verb, "nothing.service", "hello.service")
            assert said.code == 1
            assert "hello.service" in said.out
            assert "no such unit in the cluster: nothing.service" in said.err

    def test_destroy_waits_for_the_machine_to_let_go(self, fleetctl: Fleetctl) -> None:
        fleetctl.world.scripts["hello.service"].stays = True
        said = fleetctl("destroy", "--block-attempts", "1", "hello.service")
        assert said.code == 1
        assert f"waiting for machine {A} to let go of unit hello.service" in said.err


class TestWhy:
    def test_a_placed_unit(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl("start", "hello.service")
        assert fleetctl("why", "hello.service").out.splitlines() == [
            "hello.service: desired launched, current launched, on aaaaaaaa.../10.77.0.11",
            "  least loaded",
            "  aaaaaaaa.../10.77.0.11 says active (running)",
        ]
        assert json.loads(fleetctl("why", "--json", "hello.service").out)["machine"] == A

    def test_an_idle_unit(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl("submit", "hello.service")
        assert "not requested: its desired state is inactive" in fleetctl("why", "hello.service").out


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["frobnicate"], "there is no command frobnicate"),
            (["list"], "list can be list-machines or list-units or list-unit-files"),
            (["start"], "no unit given"),
            (["list-units", "--colour"], "unrecognized arguments: --colour"),
            (["start", "--block-attempts", "-1", "x"], "--block-attempts"),
            (["--endpoint", "ftp://x", "list-units"], "not an endpoint"),
            (["--endpoint", "unix://var/run/fleet.sock", "list-units"], "takes an absolute path"),
            (["--tunnel", "a:b:c:d", "--request-timeout", "soon", "list-units"], "no number of seconds"),
            (["--tunnel=-oProxyCommand=x", "list-units"], "not of the form HOST[:PORT]"),
            (["--tunnel", "host:99999", "list-units"], "not of the form HOST[:PORT]"),
            (["--tunnel", "host", "--endpoint", "http://h", "list-units"], "leads to a unix socket"),
            (["--ssh-username=-x", "list-units"], "no user name"),
            (["--strict-host-key-checking=maybe", "list-units"], "neither true nor false"),
            (["cat"], "the following arguments are required: UNIT"),
            (["ssh"], "no machine and no unit given"),
            (["ssh", "--unit", "x", "--machine", "y"], "exclude each other"),
        ],
    )
    def test_exit_code_2(self, fleetctl: Fleetctl, arguments: list[str], message: str) -> None:
        said = fleetctl(*arguments)
        assert said.code == 2
        assert message in said.err
        assert said.out == ""

    def test_nothing_at_all_is_help(self, fleetctl: Fleetctl) -> None:
        said = fleetctl()
        assert said.code == 0
        assert "list-unit-files" in said.out

    def test_help_and_version(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("version").out == fleetctl("--version").out == "fleetctl 0.1.0\n"
        assert fleetctl("help", "start").out == fleetctl("start", "--help").out
        assert "examples:" in fleetctl("help", "start").out
        assert "start units" in fleetctl("--help").out

    def test_global_options_behind_the_command(self, fleetctl: Fleetctl, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FLEETCTL_ENDPOINT")
        assert fleetctl("list-machines", "--endpoint", f"unix://{fleetctl.socket}").code == 0


class TestBadInput:
    """Each is refused before anything is sent: no unit is left behind."""

    @pytest.fixture(autouse=True)
    def _nothing_stored(self, fleetctl: Fleetctl) -> Any:
        yield
        assert fleetctl("list-unit-files", "--no-legend").out == ""

    def test_a_path_upwards_is_a_path(self, fleetctl: Fleetctl, folder: Path) -> None:
        said = fleetctl("start", "../x.service")
        assert said.code == 1
        assert "x.service is not in the cluster, and there is no file ../x.service" in said.err

    @pytest.mark.parametrize(
        "name", ["hello world.service", "a$(b).service", "x" * 300, "..", "@x.service", "é.service"]
    )
    def test_a_bad_name(self, fleetctl: Fleetctl, folder: Path, name: str) -> None:
        said = fleetctl("start", name)
        assert said.code == 1
        assert "hint: " in said.err

    def test_the_last_mistake_leaves_the_first_unit_alone(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        assert fleetctl("start", "hello.service", "missing.service").code == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\x7fELF\xff\xfe", "byte 4 is not"),
            (b"[Service]\nExecStart=/bin/\0true\n", "a NUL byte"),
            (b"[Service]\nExecStart\n", "bad.service:2"),
            (b"", "no options"),
            (b"#" * 1_100_000, "more than 1048576 bytes"),
            (b"[Service]\nExecStart=/bin/true\n[X-Fleet]\nConflict=x\n", "Conflict"),
        ],
    )
    def test_a_bad_file(self, fleetctl: Fleetctl, folder: Path, content: bytes, message: str) -> None:
        (folder / "bad.service").write_bytes(content)
        said = fleetctl("start", "bad.service")
        assert said.code == 1
        assert message in said.err

    def test_a_folder(self, fleetctl: Fleetctl, folder: Path) -> None:
        (folder / "x.service").mkdir()
        assert "this is a folder" in fleetctl("start", "x.service").err
        assert "this is a folder" in fleetctl("start", "x.service/").err

    def test_a_link_to_nowhere(self, fleetctl: Fleetctl, folder: Path) -> None:
        (folder / "x.service").symlink_to("gone.service")
        said = fleetctl("start", "x.service")
        assert "this link leads nowhere" in said.err
        assert "gone.service" in said.err


class TestTrouble:
    def test_no_server_listens(self, fleetctl: Fleetctl) -> None:
        said = fleetctl("--endpoint", "unix:///nonexistent/fleet.sock", "list-machines")
        assert said.code == 1
        assert said.err == (
            "fleetctl: error: unix:///nonexistent/fleet.sock: cannot talk to the fleet API\n"
            "  caused by: [Errno 2] No such file or directory\n\n"
            "hint: on a node, is fleet.service running? from elsewhere, set --tunnel, or a --context\n"
        )

    def test_etcd_is_away(self, fleetctl: Fleetctl) -> None:
        fleetctl.world.client.reachable = False
        said = fleetctl("list-machines")
        assert said.code == 1
        assert said.err.startswith(
            "fleetctl: error: fleet server unable to communicate with etcd\n\nhint: etcd is starting"
        )

    def test_etcd_is_away_for_a_moment_while_a_unit_is_waited_for(
        self, fleetctl: Fleetctl, unit_file: UnitFile
    ) -> None:
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(
            fleetctl, [("activating", "start")] * 3 + [("active", "running")]
        )
        fleetctl.world.away_after = 2
        said = fleetctl("start", "hello.service")
        assert said.code == 0
        assert "waiting for the cluster: fleet server unable to communicate with etcd" in said.err

    def test_a_fleetd_that_restarts_is_waited_for(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        """Its connection breaks while a unit is waited for, and for a while no server listens."""
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(
            fleetctl, [("activating", "start")] * 5 + [("active", "running")]
        )
        gone = threading.Event()

        def restart() -> None:
            fleetctl.go_away()
            gone.set()

        def come_back() -> None:
            gone.wait(WITHIN_S)
            fleetctl.serve()

        # From another thread: the server waits for the request that it is answering.
        back = threading.Thread(target=come_back)
        back.start()
        fleetctl.world.meanwhile[4] = lambda: threading.Thread(target=restart).start()
        said = fleetctl("start", "hello.service")
        back.join(WITHIN_S)
        assert said.code == 0
        assert said.out == "Unit hello.service launched on aaaaaaaa.../10.77.0.11\n"

    def test_no_server_comes_back(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(fleetctl, [("activating", "start")])
        fleetctl.world.meanwhile[4] = lambda: threading.Thread(target=fleetctl.go_away).start()
        said = fleetctl("start", "--block-attempts", "20", "hello.service")
        assert said.code == 1
        assert "waiting for the cluster: unix://" in said.err
        assert "gave up after 1 s, waiting for the cluster: unix://" in said.err

    def test_an_election_while_it_asks(
        self, fleetctl: Fleetctl, unit_file: UnitFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer is lost: it is requested again, and all three run."""
        names = ["1.service", "2.service", "3.service"]
        for name in names:
            unit_file(name)
        ask = fleetctl.world.ask
        lost = [True]

        def lose(wanted: Any, **more: Any) -> None:
            ask(wanted, **more)
            if lost:
                lost.clear()
                raise Unavailable("played", maybe_applied=True)

        monkeypatch.setattr(fleetctl.world, "ask", lose)
        said = fleetctl("start", *names)
        assert said.code == 0, said
        assert said.err.count("waiting for the cluster: fleet server unable to communicate with etcd\n") == 1

    @pytest.mark.parametrize("verb", ["submit", "load", "start"])
    def test_what_ends_half_way_says_how_far_it_came(
        self, fleetctl: Fleetctl, unit_file: UnitFile, monkeypatch: pytest.MonkeyPatch, verb: str
    ) -> None:
        names = ["1.service", "2.service", "3.service"]
        for name in names:
            unit_file(name)
        monkeypatch.setattr(session, "BATCH_MAX", 1)
        ask = fleetctl.world.ask

        def fail(wanted: Any, **more: Any) -> None:
            if "2.service" in wanted:
                raise NoSpace("etcd is full")
            ask(wanted, **more)

        monkeypatch.setattr(fleetctl.world, "ask", fail)
        said = fleetctl(verb, *names)
        assert said.code == 1
        assert "requested: 1.service\n  not requested: 2.service 3.service\n" in said.err

    def test_large_units_are_requested_one_by_one(
        self, fleetctl: Fleetctl, unit_file: UnitFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """etcd takes no more than 1.5 MiB at once."""
        text = "[Service]\nExecStart=/bin/true\n" + "".join(f"Environment=A{n}={'x' * 1000}\n" for n in range(200))
        names = [f"{number}.service" for number in range(5)]
        for name in names:
            unit_file(name, text)
        fleetctl.requests.clear()
        assert fleetctl("submit", *names).code == 0
        assert fleetctl.requests.count("POST /fleet/v1/ask") == 5
        assert [each.name for each in fleetctl.world.units()] == names

    def test_an_interrupt_reports_what_goes_on(
        self, fleetctl: Fleetctl, unit_file: UnitFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unit_file()
        fleetctl.world.scripts["hello.service"] = script(fleetctl, [("activating", "start")])
        main = threading.main_thread().ident
        assert main is not None
        fleetctl.world.meanwhile[5] = lambda: signal.pthread_kill(main, signal.SIGINT)
        said = fleetctl("start", "hello.service")
        assert said.code == 130
        assert "no longer waiting for hello.service; the cluster goes on with them\n" in said.err

    @pytest.mark.slow
    def test_many_units_are_waited_for_by_few_requests(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        names = [f"{number}.service" for number in range(200)]
        for name in names:
            unit_file(name)
        for name in names[:100]:
            fleetctl.world.scripts[name] = script(fleetctl, [("activating", "start")] * 3 + [("active", "running")])
        fleetctl.requests.clear()
        assert fleetctl("start", *names).code == 0
        assert set(fleetctl.requests) == {"POST /fleet/v1/ask", "POST /fleet/v1/progress", "GET /fleet/v1/machines"}
        assert fleetctl.requests.count("POST /fleet/v1/ask") == 2
        assert len(fleetctl.requests) < 20, "not three for each unit and round"

    def test_status_of_a_unit_that_is_nowhere(self, fleetctl: Fleetctl, unit_file: UnitFile) -> None:
        unit_file()
        fleetctl("submit", "hello.service")
        said = fleetctl("status", "hello.service")
        assert said.code == 1
        assert "unit hello.service is on no machine" in said.err


def script(fleetctl: Fleetctl, says: list[tuple[str, str]] | None = None, *, reason: str = "", error: str = "") -> Any:
    """A script of the played cluster."""
    module = __import__("sys").modules[type(fleetctl).__module__]
    return module.Script(reason=reason, says=says or [("active", "running")], error=error)
