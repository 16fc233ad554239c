"""The server behind `minireactor serve`, and the apps that it has built in.

Imports `transports`, `core` and the kit. Read first: `server`.
"""
