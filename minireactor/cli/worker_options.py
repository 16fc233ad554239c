"""The option --workers of `serve` and `proxy`."""

from __future__ import annotations

import argparse
import os
from typing import Any, Callable

from minireactor.cli import values

AUTO = "auto"
MAX_WORKERS = 256  # a typing error must not start thousands of processes


def add_workers(add: Callable[..., Any]) -> None:
    """Add the option. Its value is None for one process, which serves without workers."""
    add(
        "--workers",
        type=workers,
        metavar="N",
        help="serve with this many processes, which share the clients, so as to use several "
        "processor cores; auto: one for each core; a process that dies is started anew; "
        "--max-connections and other limits hold for all of them together, in equal parts "
        "(default: 1)",
    )


def workers(text: str) -> int | None:
    """Return a number of workers, or None for 1."""
    fix = f"give a number from 1 to {MAX_WORKERS}, or {AUTO}"
    number = cores() if text == AUTO else values.integer(text, fix)
    if not 1 <= number <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: {fix}")
    return number if number > 1 else None


def cores() -> int:
    """Return the number of processor cores that this process may use, MAX_WORKERS at most."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    return min(os.cpu_count() or 1, MAX_WORKERS)
