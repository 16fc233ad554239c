"""The server behind `minireactor serve`, and its built-in apps.

Imports `transports`, `core` and the kit. Read first: `server`.
"""
