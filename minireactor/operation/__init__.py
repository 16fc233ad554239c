"""The life of a server's process: where its sockets come from, how it is replaced, and its log.

The servers and the loop do not know of this folder. Only the commands import it.
"""
