"""What a protocol talks to: connections, ports and connectors over TCP.

Imports `core` and the kit. Read first: `lifecycle`, the table of a connection's states, then
`consumer`, its write buffer and producer, then `tcp`, the connection.
"""
