"""What a terminal shows: the full screen of `--watch`, and its lines in a pipe.

Imports `view` and what is below it. Read first: `screen`, a function from samples to lines.
"""
