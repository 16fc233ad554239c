"""What a protocol talks to: connections, ports and connectors over TCP.

May import `core` and the kit (see `minireactor/README.md`). Read first: `lifecycle`, the table of a
connection's states, then `consumer`, its write buffer and producer, then `tcp`, the connection.
"""
