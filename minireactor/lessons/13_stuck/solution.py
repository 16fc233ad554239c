"""The fault repaired: bytes can wait in the program and in two queues of the kernel."""

import sys


def diagnose(pending, send_queue, receive_queue):
    """Return who keeps a connection waiting: "client", "server", "both" or "nobody".

    pending: bytes in the server's write buffer. send_queue, receive_queue: bytes in its kernel."""
    unread = pending or send_queue
    if unread and receive_queue:
        return "both"
    if unread:
        return "client"
    return "server" if receive_queue else "nobody"


# ---- The check: the fault is above this line ----

SEEN = [
    (81_920, 152_000, 0, "client", "the client reads nothing"),
    (0, 0, 0, "nobody", "nobody has anything to say"),
    (0, 152_000, 0, "client", "the answer has left the program"),
    (0, 0, 262_144, "server", "the server reads nothing"),
    (81_920, 152_000, 262_144, "both", "both ends write"),
    (0, 152_000, 262_144, "both", "both ends write"),
]

for pending, sent, received, who, why in SEEN:
    found = diagnose(pending, sent, received)
    if found != who:
        print(f"seen: {why}; the queues have {pending:,}, {sent:,} and {received:,}")
        sys.exit(f"fault: the diagnosis is {found!r}, and {who!r} is right")
print(f"right: {len(SEEN)} connections, and each diagnosis is right")
