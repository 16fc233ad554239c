"""The event loop: descriptors, timers, flow control. No TCP, and no bytes of anybody's.

Imports only `address`, `error`, `failure` and `log`. Read first: `loop`, whose `Loop.tick` is one
iteration; then `flow`, the table that says when a producer is paused and resumed.
"""
