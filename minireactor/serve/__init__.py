"""The server of `minireactor serve`, and its built-in apps.

`server` accepts and ends connections. `clients` limits single clients, and `accept_proxy` reads
PROXY headers; `server` does without both. `apps` has the built-in apps.

May import `basic`, `internet`, `transports`, `core` and the kit. Read first: `server`.
"""
