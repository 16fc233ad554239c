"""The life of a server's process: its sockets, its log, its successor, and its workers.

| module | what it holds |
|-|-|
| `child` | a process of the same command: its start, its readiness, its end |
| `handover`, `listening` | sockets from systemd, a parent or a predecessor; the ports on them |
| `reuse_port` | listening where other processes listen too: SO_REUSEPORT |
| `restart` | a successor that replaces this process |
| `systemd` | notifications to systemd |
| `logs`, `log_file` | the lines of the log; the file that gets them |
| `workers`, `shared`, `worker` | the parent of workers; the sockets that it opens; a worker |
| `control`, `monitors`, `merge` | what both send to each other; their figures as one sample |

May import every folder but `cli`. The servers and the loop do not know of this folder; only the
commands import it. Read first: `child`, on which `restart` and `workers` build. README.md is for
operators.
"""
