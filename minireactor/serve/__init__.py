"""The server of `minireactor serve`, and its built-in apps.

May import `basic`, `internet`, `transports`, `core` and the kit. Read first: `server`.
"""
