"""Views for a terminal: the full screen of `--watch`, and its lines in a pipe.

May import `view` and all that `view` may import. Read first: `screen`,
a function from samples to lines.
"""
