"""What a browser sees: a small HTTP server, and the pages that it serves.

Imports `view`, `serve`, `proxy` and what is below them. Read first: `dashboard`.
"""
