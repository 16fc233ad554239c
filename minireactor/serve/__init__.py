"""The server of `minireactor serve`, and its built-in apps.

Imports `transports`, `core` and the kit. Read first: `server`.
"""
