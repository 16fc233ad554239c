"""The event loop: descriptors, timers, flow control. It knows nothing of TCP or of protocols.

Imports only `error`, `failure` and `log`. Read `loop` first: `Loop.tick` is one iteration. Then
read `flow`, whose table says when a producer is paused and resumed.
"""
