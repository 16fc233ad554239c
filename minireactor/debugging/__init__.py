"""Find out what is wrong with a program on the reactor.

`explain` says why a connection does not move: Reactor.explain(). `report` does so for many
connections, in slices. `mode` is the debug mode: Reactor(debug=True), or MINIREACTOR_DEBUG=1.

May import `transports`, `core` and the kit. The reactor imports `explain` and `mode` at their first
use, and knows nothing else of this folder.
Read first: `explain`.
"""
