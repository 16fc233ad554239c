"""One program, six ways to write it: 16 MB to a client that reads nothing for a while."""

import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TOTAL = 16 * 1024 * 1024

# What each needs, besides Python's own library, and the file that has it.
PEERS = {
    "minireactor": ("minireactor", "peer_minireactor.py"),
    "Twisted": ("twisted", "peer_twisted.py"),
    "asyncio-protocol": ("asyncio", "peer_protocol.py"),
    "asyncio-streams": ("asyncio", "peer_streams.py"),
    "trio": ("trio", "peer_trio.py"),
    "Node": ("node", "peer_node.js"),
}


def command(needs, file):
    """How to start it; None if what it needs is not installed here."""
    if file.endswith(".js"):
        node = shutil.which(needs)
        return node and [node, str(HERE / file)]
    return importlib.util.find_spec(needs) and [sys.executable, str(HERE / file)]


class Peer:
    """A server in a process of its own. It prints its port and, in the end, what it held."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        port = self.process.stdout.readline() or sys.exit(f"{command[-1]} does not start")
        self.client = socket.create_connection(("127.0.0.1", int(port)))

    def read(self):
        """(bytes that the server held at most, bytes that arrived)"""
        with self.process, self.client:
            arrived = 0
            while data := self.client.recv(65536):
                arrived += len(data)
            self.client.close()
            return int(self.process.stdout.readline()), arrived


commands = {name: command(*of) for name, of in PEERS.items()}
peers = {}
try:
    for name, how in commands.items():
        if how:
            peers[name] = Peer(how)
    time.sleep(0.3)  # nobody reads; each server makes what it will
    print("                   held at most       arrived")
    for name, peer in peers.items():
        held, arrived = peer.read()
        print(f"{name:17}{held:14,}{arrived:14,}")
        assert arrived == TOTAL and held < 256 * 1024
finally:
    for peer in peers.values():
        peer.process.kill()  # if it has not ended by itself
left_out = [name for name in PEERS if name not in peers]
if left_out:
    print(f"left out, because not installed: {', '.join(left_out)}")
