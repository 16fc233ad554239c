"""What a protocol talks to: connections, ports and connectors over TCP and UNIX sockets.

May import `core` and the kit (see `minireactor/README.md`). Read first: `lifecycle`, the table of a
connection's states, then `consumer`, its write buffer and producer, then `connection`. `tcp` has
what only TCP has, `unix` what only UNIX sockets have, and `adopt` takes sockets that somebody else
has opened.
"""
