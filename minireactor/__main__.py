"""Run the command line: `python3 -m minireactor`."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # As `main` does, only earlier: importing takes long enough for a Ctrl-C.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from minireactor.cli.commands import main

    sys.exit(main())
