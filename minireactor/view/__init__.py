"""Watching a reactor: a monitor takes samples and events, and views show them.

May import `core`, `transports`, `serve`, `proxy` and the kit; no lower level imports this folder.
Read first: `monitor`.
"""
