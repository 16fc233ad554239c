"""Watching a reactor: samples and events, and what is made of them.

Imports `core`, `transports` and the kit; nothing below imports it. Read first: `monitor`.
"""
