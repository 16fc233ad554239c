"""Watching a reactor: a monitor takes samples and events, and views show them.

May import every folder but `lessons`, `operation` and `cli`; only these three may import this
folder. Read first: `monitor`.
"""
