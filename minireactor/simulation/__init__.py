"""A network in a box: hosts, links, time and faults, all drawn from one seed.

Imports the kit and all below it. Read first: `network`, then `sockets`, the kernels of the hosts,
and `checks`, which watches each connection. `README.md` in this folder is for users.
"""
