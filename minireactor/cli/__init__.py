"""The command line: options, commands, exit status.

May import every folder, and imports most of them only when a command needs them. Read first:
`commands`. For `serve` and `proxy`, read `servers`, `running` and `life` next. Each group of
options has a module of its own, `<group>_options`.
"""

from minireactor.cli.commands import main

__all__ = ["main"]
