"""A pool of daemon threads, which no process waits for.

The standard library's ThreadPoolExecutor joins its threads when the interpreter ends. One call
that hangs then keeps the process for as long as it hangs.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from reprlib import repr  # one that does not raise when an object's own does
from typing import Any, Callable

from minireactor import log


def start_daemon(name: str, f: Callable[..., Any], *args: Any) -> None:
    """Call `f(*args)` in a new thread that does not keep the process from ending.

    Raises RuntimeError if the system has no thread left."""
    threading.Thread(target=f, args=args, name=name, daemon=True).start()


class ThreadPool:
    """Runs calls in at most `limit` threads. Further calls wait in a queue.

    Its methods are for one thread, the reactor's."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._count = 0
        self._idle = threading.Semaphore(0)  # threads that wait for a call

    def call(self, f: Callable[..., Any], args: Any, kw: Any) -> None:
        """Call `f(*args, **kw)` in a thread. What the call raises is logged.

        Raises RuntimeError if the system has not even one thread for the pool."""
        if not self._idle.acquire(blocking=False) and self._count < self._limit:
            self._start()
        self._calls.put((f, args, kw))

    def _start(self) -> None:
        try:
            start_daemon(f"{self._name}-{self._count}", self._work)
        except RuntimeError:
            if self._count == 0:
                raise
        else:
            self._count += 1

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                return
            f, args, kw = call
            try:
                f(*args, **kw)
            except BaseException as error:  # nobody above this thread could handle it
                log.err(error, f"in a call of {repr(f)}")
            del call, f, args, kw  # while the thread waits, it keeps nothing alive
            self._idle.release()

    def close(self) -> None:
        """End the threads after the calls that are queued. Wait for none of them."""
        for _ in range(self._count):
            self._calls.put(None)
        self._count = 0
