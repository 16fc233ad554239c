"""The event loop: descriptors, timers, flow control. Nothing here knows of TCP or protocols.

May import `error`, `failure`, `log` and no folder. Read first: `loop`, where `Loop.tick` is one
iteration, then `flow`, whose table says when a producer is paused and resumed.
"""
