"""Views for a browser: a small HTTP server, and the pages that it serves.

May import `view` and all that `view` may import. Read first: `dashboard`.
"""
