"""Look up host names without blocking the loop's thread.

getaddrinfo() blocks for half a minute if the name server is silent, and cannot be interrupted.
Each look-up therefore runs in a daemon thread of its own. The rest of this module limits the load:

- Each name has at most one look-up at a time. All queries for the name share the answer.
- An answer is used again for FRESH_SECONDS, or for up to STALE_SECONDS if no new answer comes.
- A failure is not cached: the next query starts a new look-up. A name or a network that works again
  is thus found at once.
- At most USUAL_LOOKUPS look-ups run at a time; others wait in a queue.
- A hung look-up, or one without queries, does not count among these, so that hung names do not
  block the others. There are at most MAX_LOOKUPS threads.
- A look-up without queries leaves the queue.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from functools import partial
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Callable, Union

from minireactor.core.threads import start_daemon
from minireactor.error import ConnectError, DNSLookupError, ServiceNameUnknownError, getConnectError
from minireactor.transports.closing import Lingering

if TYPE_CHECKING:
    from minireactor.core.loop import Loop
    from minireactor.core.timers import DelayedCall

    Key = tuple[str, "str | None"]  # a host and, if the port was given as one, a service name

Resolved = Union["list[Any]", Exception]  # addresses from getaddrinfo(), or the error
Answer = Callable[[Resolved], object]

# getaddrinfo() reports no time to live, so this is the shortest that is usual.
FRESH_SECONDS = 5.0
STALE_SECONDS = 300.0  # long enough to restart a name server
# How long a query waits for a new answer if an old one is cached. A name server usually answers
# within 0.1 s, or not at all.
REFRESH_SECONDS = 1.0
MAX_CACHED = 1000  # names; about 1 KiB each

USUAL_LOOKUPS = 10  # threads
# A look-up counts as hung after this time; most take less than 0.1 s. Every ten hung names delay
# a later, good name by this time.
HUNG_SECONDS = 0.5
MAX_LOOKUPS = 100  # threads, including hung ones; each takes about 50 KiB

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
MAX_RECLAIMED = 64  # descriptors that one call of Lingering.reclaim() may free

_UNFIT = re.compile(r"[\0-\x20\x7f]")  # control characters and spaces
_texts = Repr()
_texts.maxstring = _texts.maxother = 260  # characters; a host name has at most 253
_short_repr = _texts.repr


def checked_host(host: Any) -> str:
    """Return `host`, a possible name or address. Raises DNSLookupError if `host` is invalid.

    Some systems cut a name at its first NUL, or an address at its first space. A connection would
    then reach another host than the one whose name a program has checked."""
    if not isinstance(host, str):
        raise DNSLookupError(f"{_short_repr(host)} is not a host; give a name or an address as str")
    if not host:
        raise DNSLookupError("the host is empty; give a name or an address")
    if _UNFIT.search(host):
        raise DNSLookupError(
            f"{_short_repr(host)} contains a space or a control character; "
            "give a host name or an address"
        )
    return host


def checked_port(port: Any) -> int | str:
    """Return `port` as a number from 0 to 65535, or as the name of a service.

    Raises ConnectError if `port` is neither. Some systems would take a larger or a negative number
    modulo 65,536, and would accept a number with a sign or a space before it."""
    if type(port) is int and 0 <= port <= 65535:
        return port
    if isinstance(port, str):
        if re.fullmatch("[0-9]{1,20}", port):
            port = int(port)
        elif port.isascii() and not _UNFIT.search(port) and re.search("[A-Za-z]", port):
            return port
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConnectError(
            string=f"{_short_repr(port)} is not a port number; "
            "give an int from 0 to 65535, or the name of a service"
        )
    return int(port)


def look_up_number(host: str, port: int | str) -> Resolved | None:
    """Return the result of look_up() for a numeric address, or None for a name.

    Does not block. A program may replace socket.getaddrinfo by a function that blocks whatever its
    flags are, so getaddrinfo is not called for what is clearly a name."""
    if ":" not in host:  # inet_aton() accepts every form of an IPv4 address, such as 127.1
        try:
            socket.inet_aton(host)
        except (OSError, ValueError):
            return None
    found = look_up(host, port, socket.AI_NUMERICHOST)
    return None if isinstance(found, DNSLookupError) else found


def look_up(host: str, port: int | str, flags: int = 0) -> Resolved:
    """Return the addresses of `host`, or an exception that says why there are none.

    Blocks, unless `flags` contains AI_NUMERICHOST. May be called in any thread."""
    # Programs and tests may replace socket.getaddrinfo by a function without `flags`.
    options = {"flags": flags} if flags else {}
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, **options)
    except socket.gaierror as error:
        if error.errno == socket.EAI_SERVICE:
            text = f"no such service: {_short_repr(port)}"
            failure: Exception = ServiceNameUnknownError(string=text)
        else:
            failure = DNSLookupError(f"cannot resolve {_short_repr(host)}: {error.strerror}")
            if flags:
                return failure  # `host` is a name, not a numeric address
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            return getConnectError(error)
        failure = _broken(host, port, error)
    # Without a free descriptor, the system reports an unknown name or service.
    lack = lack_of_descriptors()
    return failure if lack is None else getConnectError(lack)


def _broken(host: str, port: int | str, error: BaseException) -> DNSLookupError:
    return DNSLookupError(f"cannot resolve {_short_repr(host)}, port {_short_repr(port)}: {error}")


def lack_of_descriptors() -> OSError | None:
    """Return the system's error if the two descriptors that a look-up needs cannot be opened."""
    try:
        for fd in os.pipe():
            os.close(fd)
    except OSError as error:
        if error.errno in OUT_OF_DESCRIPTORS:
            return error
    return None


class Query:
    """One request for the addresses of a host, and the function to call with the answer."""

    __slots__ = ("answer", "lookup", "port")

    def __init__(self, port: int | str, answer: Answer) -> None:
        self.port = port
        self.answer: Answer | None = answer
        self.lookup: Lookup | None = None  # whose answer this query waits for

    def cancel(self) -> None:
        """Withdraw the query: `answer` will not be called. Idempotent."""
        self.answer = None
        if self.lookup is not None:
            self.lookup.withdraw(self)

    def reply(self, found: Resolved) -> None:
        """Call `answer` with `found`, unless it has been called or the query is cancelled."""
        answer, self.answer = self.answer, None
        if answer is not None:
            answer(found)


class Lookup:
    """The look-up of one name, with the queries that wait for its answer."""

    __slots__ = ("began", "has_reclaimed", "host", "key", "port", "queries", "resolver", "timer")

    def __init__(self, resolver: Resolver, key: Key, host: str, port: int | str) -> None:
        self.resolver = resolver
        self.key = key
        self.host = host
        self.port = port
        self.queries: dict[Query, None] = {}  # in order of arrival
        self.began: float | None = None  # when its thread was started
        self.timer: DelayedCall | None = None  # answers with cached addresses if it fires
        self.has_reclaimed = False

    def add(self, query: Query) -> None:
        query.lookup = self
        self.queries[query] = None

    def withdraw(self, query: Query) -> None:
        query.lookup = None
        del self.queries[query]
        if not self.queries:
            self.resolver.abandon(self)


class Resolver:
    """Finds the addresses of hosts for one reactor.

    `Reactor(resolver=...)` takes any object with the same `resolve()` instead."""

    def __init__(self, reactor: Loop) -> None:
        self._reactor = reactor
        self._cache: dict[Key, tuple[float, int | str, list[Any]]] = {}  # time, port, addresses
        self._lookups: dict[Key, Lookup] = {}  # queued or running
        self._queue: dict[Lookup, None] = {}  # oldest first
        self._running: set[Lookup] = set()  # without those of `localhost`
        self._timer: DelayedCall | None = None  # while look-ups are queued

    def resolve(self, host: Any, port: Any, answer: Answer) -> Query:
        """Find the addresses of `host`: call `answer(addresses)` or `answer(exception)`.

        `addresses` has the form that getaddrinfo() returns. `answer` is called in the loop's
        thread, and before resolve() returns if no look-up is needed: for a numeric
        address, for cached addresses, and for an invalid host or port."""
        query = Query(port, answer)
        try:
            host, port = checked_host(host), checked_port(port)
        except (ConnectError, DNSLookupError) as error:
            query.reply(error)
            return query
        query.port = port
        key = (host.lower(), port if isinstance(port, str) else None)
        lookup = self._lookups.get(key)
        is_late = lookup is not None and self._age(lookup) >= REFRESH_SECONDS
        found: Resolved | None = self._find_cached(key, port, is_late)
        if found is None and lookup is None:
            found = look_up_number(host, port)
            if isinstance(found, list):
                self._add_to_cache(key, port, found)
        if found is None:
            self._wait(lookup or Lookup(self, key, host, port), query)
        else:
            query.reply(found)
        return query

    def _wait(self, lookup: Lookup, query: Query) -> None:
        """Add `query` to `lookup`, and start the look-up if it is new."""
        key = lookup.key
        is_new = key not in self._lookups
        self._lookups[key] = lookup
        lookup.add(query)
        if lookup.timer is None and self._find_cached(key, query.port, is_late=True) is not None:
            late = partial(self._answer_late, lookup)
            lookup.timer = self._reactor.call_later_internal(REFRESH_SECONDS, late)
        if is_new:
            self._start(lookup)

    # The cache.

    def _find_cached(self, key: Key, port: int | str, is_late: bool) -> list[Any] | None:
        """Return the cached addresses with `port`, or None if they are missing or too old.

        The addresses may be FRESH_SECONDS old, or STALE_SECONDS if `is_late`: if a new answer has
        failed or is late."""
        cached = self._cache.get(key)
        max_age = STALE_SECONDS if is_late else FRESH_SECONDS
        if cached is None or self._reactor.seconds() - cached[0] > max_age:
            return None
        return _for_port(cached[2], cached[1], port)

    def _add_to_cache(self, key: Key, port: int | str, addresses: list[Any]) -> None:
        self._cache.pop(key, None)  # keeps the oldest answer first
        self._cache[key] = (self._reactor.seconds(), port, list(addresses))
        if len(self._cache) > MAX_CACHED:
            del self._cache[next(iter(self._cache))]

    def _answer_late(self, lookup: Lookup) -> None:
        """Answer with the cached addresses, as no new answer has come, unless they are too old."""
        lookup.timer = None
        cached = self._find_cached(lookup.key, lookup.port, is_late=True)
        if cached is not None:
            self._reply(lookup, cached)

    # Threads.

    def _start(self, lookup: Lookup) -> None:
        if lookup.key[0].rstrip(".") == "localhost":
            self._start_thread(lookup)  # never queued: at most one more thread
        else:
            self._queue[lookup] = None
            self._start_queued()

    def _start_queued(self) -> None:
        """Start queued look-ups while threads are available."""
        while self._queue:
            hung = sum(map(self._is_hung, self._running))
            lookup = next(iter(self._queue))
            if len(self._running) < min(USUAL_LOOKUPS + hung, MAX_LOOKUPS):
                del self._queue[lookup]
                self._running.add(lookup)
                self._start_thread(lookup)
            elif hung == MAX_LOOKUPS:
                del self._queue[lookup]
                self._answer(lookup, _all_hang())
            else:
                break
        if self._queue and self._timer is None:
            self._timer = self._reactor.call_later_internal(self._next_hung(), self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._start_queued()

    def _age(self, lookup: Lookup) -> float:
        return 0.0 if lookup.began is None else self._reactor.seconds() - lookup.began

    def _is_hung(self, lookup: Lookup) -> bool:
        return not lookup.queries or self._age(lookup) >= HUNG_SECONDS

    def _next_hung(self) -> float:
        """Return the seconds until the next running look-up counts as hung."""
        not_hung = [each for each in self._running if not self._is_hung(each)]
        return max(0.0, HUNG_SECONDS - max(map(self._age, not_hung), default=0.0))

    def _start_thread(self, lookup: Lookup) -> None:
        lookup.began = self._reactor.seconds()
        try:
            start_daemon(f"look-up of {lookup.host[:40]}", self._work, lookup)
        except RuntimeError as error:
            self._running.discard(lookup)
            self._answer(lookup, ConnectError(errno.EAGAIN, f"cannot look up a name: {error}"))

    def _work(self, lookup: Lookup) -> None:
        try:
            found = look_up(lookup.host, lookup.port)
        except BaseException as error:  # an exception would be lost in this thread
            found = _broken(lookup.host, lookup.port, error)
        self._reactor.callFromThread(self._finish, lookup, found)

    def _finish(self, lookup: Lookup, found: Resolved) -> None:
        self._running.discard(lookup)
        if _is_lack_of_descriptors(found) and lookup.queries and not lookup.has_reclaimed:
            lookup.has_reclaimed = True
            if Lingering.reclaim(self._reactor, MAX_RECLAIMED):
                self._start(lookup)
                return
        self._answer(lookup, found)
        self._start_queued()

    def abandon(self, lookup: Lookup) -> None:
        """Drop a look-up without queries from the queue, or stop counting it if it runs."""
        if lookup in self._queue:
            del self._queue[lookup]
            del self._lookups[lookup.key]
        else:
            # Its thread does not count any more, so another look-up may start. Start it later: the
            # caller may be about to abandon the queued ones as well.
            self._reactor.call_soon(self._start_queued)

    def _answer(self, lookup: Lookup, found: Resolved) -> None:
        """End the look-up: cache what was found, and answer the queries."""
        del self._lookups[lookup.key]
        if isinstance(found, list) and found:
            self._add_to_cache(lookup.key, lookup.port, found)
        self._reply(lookup, found)

    def _reply(self, lookup: Lookup, found: Resolved) -> None:
        """Answer all queries: with `found` or, if `found` is an error, with cached addresses."""
        queries, lookup.queries = list(lookup.queries), {}
        for query in queries:
            query.lookup = None
            if isinstance(found, list) and found:
                answer: Resolved = _for_port(found, lookup.port, query.port)
            else:
                answer = self._find_cached(lookup.key, query.port, is_late=True) or found
            self._reactor.call_soon(query.reply, answer)


def _for_port(addresses: list[Any], asked: int | str, wanted: int | str) -> list[Any]:
    """Return `addresses` with the port number `wanted` in place of the port `asked`."""
    if asked == wanted:
        return list(addresses)
    return [
        (*rest, (host, wanted if port == asked else port, *scope))
        for *rest, (host, port, *scope) in addresses
    ]


def _is_lack_of_descriptors(found: Resolved) -> bool:
    return isinstance(found, ConnectError) and found.osError in OUT_OF_DESCRIPTORS


def _all_hang() -> DNSLookupError:
    return DNSLookupError(
        f"all of the {MAX_LOOKUPS} running look-ups hang; check the name servers of this machine"
    )
