"""The option --engine: which reactor a command runs on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import minireactor
from minireactor.cli.view_options import CORE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

# Options that need more than a small reactor has: attribute, option.
_CORE_ONLY = (
    ("kernel_limit", "--kernel-limit"),
    ("accept_rate", "--accept-rate"),
    ("watch", "--watch"),
    ("copy", "--copy"),
    ("reuse_port", "--reuse-port"),
    ("workers", "--workers"),
    ("tls_cert", "--tls-cert"),
    ("target_tls", "--target-tls"),
    ("accept_proxy", "--accept-proxy"),
    ("send_proxy", "--send-proxy"),
    ("send_proxy_v2", "--send-proxy-v2"),
)


@contextmanager
def engine(options: argparse.Namespace) -> Iterator[None]:
    """Make the reactor of --engine the default reactor for a while. Raises UsageError."""
    name = getattr(options, "engine", CORE)
    if name == CORE:
        yield
        return
    from minireactor.engine import Engine, EngineError, load
    from minireactor.view.output import UsageError

    command = f"minireactor {options.command}"
    for attribute, option in _CORE_ONLY:
        if getattr(options, attribute, None):
            raise UsageError(f"{command}: {option} needs --engine {CORE}; leave one of them out")
    places = [*getattr(options, "targets", ()), *getattr(options, "listen", ())]
    if options.command == "proxy":
        places.append(options.place)
    places += [getattr(options, view, None) or ("", 0) for view in ("metrics", "dashboard")]
    hosts = [str(getattr(options, "port", "")), *(host for host, _ in places)]
    if any(host.startswith(("unix:", "systemd")) for host in hosts):
        raise UsageError(
            f"{command}: systemd and UNIX sockets need --engine {CORE}; give HOST:PORT instead"
        )
    before = vars(minireactor).get("reactor")
    try:
        minireactor.reactor = Engine(load(name), name)
        yield
    except EngineError as error:
        raise UsageError(f"{command}: --engine {error}") from error
    finally:
        if before is None:
            vars(minireactor).pop("reactor", None)
        else:
            minireactor.reactor = before
