"""The command line: options, commands, exit status.

Imports all other folders, most of it only when a command needs it. Read first: `commands`.
"""

from minireactor.cli.commands import main

__all__ = ["main"]
