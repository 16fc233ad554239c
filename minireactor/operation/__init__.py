"""The life of a server's process: where its listening sockets come from, and how it is replaced.

The servers and the loop do not know of this folder. Only the commands import it.
"""
