"""The course that `minireactor learn build` gives: twelve steps to a reactor of one's own.

A step is a folder, whose number and name are its place in the course:

    text.en.md, .zh.md  what to write and why; the last section holds the hints, one a line
    solution.py         a whole reactor that passes all checks up to this step

`start.py` is the file with which a learner begins. The checks are in `loop_checks`, `ending_checks`
and `flow_checks`. A check drives the learner's reactor with real sockets: see `trial`.

May import what `lessons` may import. Read first: `steps`, then `trial`.
"""
