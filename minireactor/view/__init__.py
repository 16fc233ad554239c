"""Watching a reactor: a monitor takes samples and events, and views show them.

May import every folder but `lessons` and `cli`; only these two may import this folder. Read first:
`monitor`.
"""
