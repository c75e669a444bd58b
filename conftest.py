"""For all tests, with machines and without: a polite end cleans up like Ctrl-C does."""

import signal


def pytest_configure() -> None:
    """Make SIGTERM an interrupt: fixtures then end what they started (machines, etcd), as they do on Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
