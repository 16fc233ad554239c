"""A pool of daemon threads: a process that ends does not wait for them.

The standard library's ThreadPoolExecutor joins its threads when the interpreter ends. So one call
that hangs would keep the process from ending.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any, Callable

from minireactor import log
from minireactor.failure import safe_repr


def start_daemon(name: str, f: Callable[..., Any], *args: Any) -> None:
    """Call `f(*args)` in a new thread that does not keep the process from ending.

    Raises RuntimeError if the system cannot start another thread."""
    threading.Thread(target=f, args=args, name=name, daemon=True).start()


class ThreadPool:
    """Runs calls in at most `limit` threads. Further calls wait in a queue.

    Any thread may call the methods of the pool."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._count = 0  # threads
        self._idle = threading.Semaphore(0)  # counts the threads that wait for a call
        # Guards `_count`. An RLock, because a signal handler may interrupt the holder of the lock.
        self._lock = threading.RLock()

    def call(self, f: Callable[..., Any], args: Any, kw: Any) -> None:
        """Call `f(*args, **kw)` in a thread. An exception of the call is logged.

        Raises RuntimeError if the system cannot start even one thread for the pool."""
        if not self._idle.acquire(blocking=False):
            with self._lock:
                self._start_another()
        self._calls.put((f, args, kw))

    def _start_another(self) -> None:
        if self._count == self._limit:
            return
        self._count += 1
        try:
            start_daemon(f"{self._name}-{self._count}", self._work, self._calls, self._idle)
        except RuntimeError:
            self._count -= 1
            if self._count == 0:
                raise

    def _work(self, calls: SimpleQueue[Any], idle: threading.Semaphore) -> None:
        while True:
            call = calls.get()
            if call is None:
                return
            f, args, kw = call
            try:
                f(*args, **kw)
            except BaseException as error:  # this thread has no caller that could handle it
                log.err(error, f"in a call of {safe_repr(f)}")
            del call, f, args, kw  # a waiting thread must not keep these objects alive
            idle.release()

    def close(self) -> None:
        """End the threads when the queued calls are done. Returns at once."""
        with self._lock:
            count, self._count = self._count, 0
            calls, self._calls = self._calls, SimpleQueue()
            self._idle = threading.Semaphore(0)  # a later call must not wait for a thread that ends
        for _ in range(count):
            calls.put(None)
