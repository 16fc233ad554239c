"""The course that `minireactor learn build` gives: twelve steps to a reactor of one's own.

A step is a folder, whose number and name are its place in the course:

    text.en.md, .zh.md  what to write and why; the last section holds the hints, one a line
    solution.py         a whole reactor that passes all checks up to this step

A learner begins with `00_start/reactor.py`. The checks are in the modules `..._checks`. A check
drives the learner's reactor with real sockets: see `trial`.

May import what `lessons` may import. Read first: `steps`, then `trial`.
"""
