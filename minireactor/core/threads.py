"""A pool of daemon threads, which no process waits for.

The standard library's ThreadPoolExecutor joins its threads when the interpreter ends. One call
that hangs then keeps the process for as long as it hangs.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any, Callable

from minireactor import log
from minireactor.failure import safe_repr


def start_daemon(name: str, f: Callable[..., Any], *args: Any) -> None:
    """Call `f(*args)` in a new thread that does not keep the process from ending.

    Raises RuntimeError if the system has no thread left."""
    threading.Thread(target=f, args=args, name=name, daemon=True).start()


class ThreadPool:
    """Runs calls in at most `limit` threads. Further calls wait in a queue.

    Any thread may call its methods."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._count = 0  # threads
        self._idle = threading.Semaphore(0)  # threads that wait for a call
        self._lock = threading.RLock()  # of _count; a signal handler may come in between

    def call(self, f: Callable[..., Any], args: Any, kw: Any) -> None:
        """Call `f(*args, **kw)` in a thread. What the call raises is logged.

        Raises RuntimeError if the system has not even one thread for the pool."""
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
            except BaseException as error:  # nobody above this thread could handle it
                log.err(error, f"in a call of {safe_repr(f)}")
            del call, f, args, kw  # while the thread waits, it keeps nothing alive
            idle.release()

    def close(self) -> None:
        """End the threads after the calls that are queued. Wait for none of them."""
        with self._lock:
            count, self._count = self._count, 0
            calls, self._calls = self._calls, SimpleQueue()
            self._idle = threading.Semaphore(0)  # a later call must not count on a thread that ends
        for _ in range(count):
            calls.put(None)
