"""What a protocol talks to: connections, ports and connectors over TCP.

Imports `core` and the kit. Read first: `tcp`, the connection with its write buffer.
"""
