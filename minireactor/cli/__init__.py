"""The command line: options, commands, exit status.

May import every folder, and imports most of them only when a command needs them. Read
first: `commands`.
"""

from minireactor.cli.commands import main

__all__ = ["main"]
