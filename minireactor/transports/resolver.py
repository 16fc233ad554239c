"""Look-ups of host names, off the loop's thread.

getaddrinfo() blocks, for half a minute if the name server is silent, and cannot be interrupted.
So each look-up runs in a daemon thread of its own. The rest of this module bounds the look-ups:

- one look-up for each name is under way, and all who ask for the name share its answer;
- an answer is used again for FRESH_SECONDS, and for up to STALE_SECONDS while no new one comes;
- a failure is not kept: the next client asks again, so a name or a network that comes back is
  found at once, and sharing alone bounds the load to one look-up at a time for each name;
- at most USUAL_LOOKUPS run at a time, and further ones wait in a queue;
- one that hangs, or that nobody waits for any more, does not count among those, so that hung names
  do not block the others; there are MAX_LOOKUPS threads at most;
- a look-up that nobody waits for any more leaves the queue.
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

Resolved = Union["list[Any]", Exception]  # what getaddrinfo gave, or why it gave nothing
Answer = Callable[[Resolved], object]

FRESH_SECONDS = 5.0  # as short as the shortest usual time to live, as getaddrinfo() tells none
STALE_SECONDS = 300.0  # long enough for a name server to be restarted
# How long a client waits for a new answer when there is an old one. A name server usually answers
# within 0.1 s, or not at all.
REFRESH_SECONDS = 1.0
MAX_KEPT = 1000  # names; about 1 KiB each

USUAL_LOOKUPS = 10  # threads
# After which a look-up counts as hung; a usual one takes less than 0.1 s. Every ten hung names
# delay a good one that comes after them by this time.
HUNG_SECONDS = 0.5
MAX_LOOKUPS = 100  # threads, hung ones included: a thread takes about 50 KiB

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
MAX_RECLAIMED = 64  # descriptors

_UNFIT = re.compile(r"[\0-\x20\x7f]")  # control characters and blanks
_texts = Repr()
_texts.maxstring = _texts.maxother = 260  # characters; a host name has at most 253
_shown = _texts.repr


def checked_host(host: Any) -> str:
    """Return `host` if it can be a host's name or address. Raises DNSLookupError.

    Some systems cut a name at its first NUL, or an address at its first blank, and would then
    reach another host than the one that a program has checked the name of."""
    if not isinstance(host, str):
        raise DNSLookupError(f"{_shown(host)} is not a host; give a name or an address as str")
    if not host:
        raise DNSLookupError("the host is empty; give a name or an address")
    if _UNFIT.search(host):
        raise DNSLookupError(
            f"{_shown(host)} has a blank or a control character in it; "
            "give a host name or an address"
        )
    return host


def checked_port(port: Any) -> int | str:
    """Return a port number from 0 to 65535, or the name of a service. Raises ConnectError.

    Some systems would take a larger or negative number modulo 65,536, and a text with a sign or a
    blank before it as a number."""
    if type(port) is int and 0 <= port <= 65535:
        return port
    if isinstance(port, str):
        if re.fullmatch("[0-9]{1,20}", port):
            port = int(port)
        elif port.isascii() and not _UNFIT.search(port) and re.search("[A-Za-z]", port):
            return port
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConnectError(
            string=f"{_shown(port)} is no port number: they go from 0 to 65535; "
            "give an int, or the name of a service"
        )
    return int(port)


def look_up_number(host: str, port: int | str) -> Resolved | None:
    """Return what look_up() gives for an address in numbers, and None for a name.

    Does not block. A function in the place of socket.getaddrinfo may block whatever its flags
    are, so it is not asked about what is clearly a name."""
    if ":" not in host:  # all texts of IPv4 are those that inet_aton() takes, such as 127.1
        try:
            socket.inet_aton(host)
        except (OSError, ValueError):
            return None
    found = look_up(host, port, socket.AI_NUMERICHOST)
    return None if isinstance(found, DNSLookupError) else found


def look_up(host: str, port: int | str, flags: int = 0) -> Resolved:
    """Return the addresses of `host`, or why there are none.

    Blocks, unless `flags` has AI_NUMERICHOST. Any thread may call it."""
    # Programs and tests put a function of their own into the place of socket.getaddrinfo.
    options = {"flags": flags} if flags else {}
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, **options)
    except socket.gaierror as error:
        if error.errno == socket.EAI_SERVICE:
            failure: Exception = ServiceNameUnknownError(string=f"no such service: {_shown(port)}")
        else:
            failure = DNSLookupError(f"cannot resolve {_shown(host)}: {error.strerror}")
            if flags:
                return failure  # it is a name
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            return getConnectError(error)
        failure = _broken(host, port, error)
    # Without a descriptor, the system says that it does not know the name, or the service.
    lack = lack_of_descriptors()
    return failure if lack is None else getConnectError(lack)


def _broken(host: str, port: int | str, error: BaseException) -> DNSLookupError:
    return DNSLookupError(f"cannot resolve {_shown(host)}, port {_shown(port)}: {error}")


def lack_of_descriptors() -> OSError | None:
    """Return an error if there are not even two descriptors left, as a look-up needs."""
    try:
        for fd in os.pipe():
            os.close(fd)
    except OSError as error:
        if error.errno in OUT_OF_DESCRIPTORS:
            return error
    return None


class Query:
    """One client's question, and the call that takes its answer."""

    __slots__ = ("answer", "lookup", "port")

    def __init__(self, port: int | str, answer: Answer) -> None:
        self.port = port
        self.answer: Answer | None = answer
        self.lookup: Lookup | None = None  # that it waits for

    def cancel(self) -> None:
        """Withdraw the question: `answer` is not called any more. Idempotent."""
        self.answer = None
        if self.lookup is not None:
            self.lookup.withdraw(self)

    def reply(self, found: Resolved) -> None:
        """Call `answer`, once."""
        answer, self.answer = self.answer, None
        if answer is not None:
            answer(found)


class Lookup:
    """The look-up of one name, and the queries that wait for its answer."""

    __slots__ = ("began", "has_reclaimed", "host", "key", "port", "queries", "resolver", "timer")

    def __init__(self, resolver: Resolver, key: Key, host: str, port: int | str) -> None:
        self.resolver = resolver
        self.key = key
        self.host = host
        self.port = port
        self.queries: dict[Query, None] = {}  # in the order in which they came
        self.began: float | None = None  # when it got its thread
        self.timer: DelayedCall | None = None  # to answer with what is kept, if anybody waits then
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

    Another object may take its place, as `Reactor(resolver=...)`, if it has this `resolve()`."""

    def __init__(self, reactor: Loop) -> None:
        self._reactor = reactor
        self._kept: dict[Key, tuple[float, int | str, list[Any]]] = {}  # when, port, addresses
        self._lookups: dict[Key, Lookup] = {}  # queued or under way
        self._queue: dict[Lookup, None] = {}  # in order
        self._running: set[Lookup] = set()  # those of `localhost` do not count
        self._timer: DelayedCall | None = None  # while look-ups are queued

    def resolve(self, host: Any, port: Any, answer: Answer) -> Query:
        """Call `answer(addresses)`, as getaddrinfo() gives them, or `answer(exception)`.

        The call comes on the loop's thread. For a number, for what is kept and for what cannot be
        a host or port, the call comes before resolve() returns."""
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
        found: Resolved | None = self._find_kept(key, port, is_late)
        if found is None and lookup is None:
            found = look_up_number(host, port)
            if isinstance(found, list):
                self._keep(key, port, found)
        if found is None:
            self._wait(lookup or Lookup(self, key, host, port), query)
        else:
            query.reply(found)
        return query

    def _wait(self, lookup: Lookup, query: Query) -> None:
        """Let the query wait for this look-up, which is started if it is new."""
        key = lookup.key
        is_new = key not in self._lookups
        self._lookups[key] = lookup
        lookup.add(query)
        if lookup.timer is None and self._find_kept(key, query.port, is_late=True) is not None:
            late = partial(self._answer_late, lookup)
            lookup.timer = self._reactor.call_later_hidden(REFRESH_SECONDS, late)
        if is_new:
            self._start(lookup)

    # What is kept.

    def _find_kept(self, key: Key, port: int | str, is_late: bool) -> list[Any] | None:
        """Return the addresses that are kept, for `port`, if there are any and they will do.

        They are to be fresh or, if a new answer fails or is late, only not too old."""
        kept = self._kept.get(key)
        max_age = STALE_SECONDS if is_late else FRESH_SECONDS
        if kept is None or self._reactor.seconds() - kept[0] > max_age:
            return None
        return _for_port(kept[2], kept[1], port)

    def _keep(self, key: Key, port: int | str, addresses: list[Any]) -> None:
        self._kept.pop(key, None)  # so that the oldest answer is always the first
        self._kept[key] = (self._reactor.seconds(), port, list(addresses))
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def _answer_late(self, lookup: Lookup) -> None:
        """No new answer has come: give the old one, if it is not too old by now."""
        lookup.timer = None
        kept = self._find_kept(lookup.key, lookup.port, is_late=True)
        if kept is not None:
            self._reply(lookup, kept)

    # Threads.

    def _start(self, lookup: Lookup) -> None:
        if lookup.key[0].rstrip(".") == "localhost":
            self._start_thread(lookup)  # one more thread at most, which waits behind nobody
        else:
            self._queue[lookup] = None
            self._start_queued()

    def _start_queued(self) -> None:
        """Start what is queued, as far as there are threads for it."""
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
            self._timer = self._reactor.call_later_hidden(self._next_hung(), self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._start_queued()

    def _age(self, lookup: Lookup) -> float:
        return 0.0 if lookup.began is None else self._reactor.seconds() - lookup.began

    def _is_hung(self, lookup: Lookup) -> bool:
        return not lookup.queries or self._age(lookup) >= HUNG_SECONDS

    def _next_hung(self) -> float:
        """Return the seconds until one more of the running look-ups counts as hung."""
        sound = [each for each in self._running if not self._is_hung(each)]
        return max(0.0, HUNG_SECONDS - max(map(self._age, sound), default=0.0))

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
        except BaseException as error:  # nobody above this thread could handle it
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
        """Nobody waits for this look-up any more."""
        if lookup in self._queue:
            del self._queue[lookup]
            del self._lookups[lookup.key]
        else:
            # It does not count any more. Those in the queue may be abandoned by now, too: later.
            self._reactor.call_soon(self._start_queued)

    def _answer(self, lookup: Lookup, found: Resolved) -> None:
        """The look-up has ended: answer its queries."""
        del self._lookups[lookup.key]
        if isinstance(found, list) and found:
            self._keep(lookup.key, lookup.port, found)
        self._reply(lookup, found)

    def _reply(self, lookup: Lookup, found: Resolved) -> None:
        """Answer all queries: with `found` or, if that is an error, with what is kept."""
        queries, lookup.queries = list(lookup.queries), {}
        for query in queries:
            query.lookup = None
            if isinstance(found, list) and found:
                mine: Resolved = _for_port(found, lookup.port, query.port)
            else:
                mine = self._find_kept(lookup.key, query.port, is_late=True) or found
            self._reactor.call_soon(query.reply, mine)


def _for_port(addresses: list[Any], asked: int | str, wanted: int | str) -> list[Any]:
    """Return addresses that were looked up for one port number as those of another."""
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
        f"all of the {MAX_LOOKUPS} look-ups that are under way hang; "
        "check the name servers of this machine"
    )
