"""For all tests, with machines and without: a polite end cleans up like Ctrl-C does."""

import signal


def pytest_configure() -> None:
    """Make SIGTERM an interrupt: fixtures then end what they started (machines, etcd), as they do on Ctrl-C.

    And let Ctrl-C be heard, by what tests start as well: a script that runs the tests in its background has it ignored.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (
        signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    ):  # under nohup(1): we go on ignoring it, what tests start does not
        signal.signal(signal.SIGHUP, lambda *_: None)
