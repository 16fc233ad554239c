"""Set up the process of a command: its signal handlers, its descriptors and its log."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from minireactor.internet import Reactor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _existing(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


# Windows has none of the following.
RELOAD_SIGNALS = _existing("SIGHUP")  # reads files again
REPORT_SIGNALS = _existing("SIGUSR1")  # reports on the connections that do not move
RESTART_SIGNALS = _existing("SIGUSR2")  # starts a successor
SIGNALS = STOP_SIGNALS + RELOAD_SIGNALS + REPORT_SIGNALS + RESTART_SIGNALS
MAX_DESCRIPTORS = 1024 * 1024  # what Linux allows a process by default (fs.nr_open)
OPEN_MAX = 10_240  # what macOS allows at least, even if it reports no limit
# Descriptors for the loop, ports, files, views and name look-ups; at most half of a small limit.
RESERVED_DESCRIPTORS = 32


def set_handler(number: int, handler: Any) -> None:
    """Set the handler of a signal, unless the parent process made us ignore it (`trap '' INT`)."""
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, handler)


def open_standard_descriptors() -> None:
    """Open the null device for each closed descriptor from 0 to 2.

    Otherwise a socket would get the number 1 or 2, and printed text would go to a client."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) == number:  # the lowest free number
                os.set_inheritable(number, True)


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit of open descriptors, to the hard limit at most. Return the new limit.

    The new limit is at most MAX_DESCRIPTORS, because a child process may run a program that closes
    every possible descriptor. Returns None if the system has no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited: int = resource.RLIM_INFINITY
    wanted = MAX_DESCRIPTORS if hard == unlimited else min(hard, MAX_DESCRIPTORS)
    # macOS may report no limit, and still refuse more than OPEN_MAX.
    for limit in (wanted, min(wanted, OPEN_MAX)):
        if soft == unlimited or soft >= limit:
            break
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            soft = limit
    return MAX_DESCRIPTORS if soft == unlimited else soft


def max_connections(options: argparse.Namespace, descriptors: int | None) -> int | None:
    """Return how many connections the option and the descriptors allow, or None for no limit."""
    asked: int | None = options.max_connections
    if descriptors is None:
        return asked
    left = descriptors - min(RESERVED_DESCRIPTORS, descriptors // 2)
    if options.command == "proxy":
        # A client and its target take two sockets. Pipes of splice() may take another quarter.
        left = (left if options.copy else left - descriptors // 4) // 2
    return min(left, asked or left)


def set_up_logging() -> None:
    """Print the records of `logging`, unless the app that has been loaded has set up logging."""
    import logging

    from minireactor.operation.logs import LogHandler

    logging.basicConfig(handlers=[LogHandler()])


def stop(reactor: Reactor) -> None:
    """Stop the reactor, unless the app or an earlier signal has stopped it."""
    from minireactor.error import ReactorNotRunning

    with contextlib.suppress(ReactorNotRunning):
        reactor.stop()
