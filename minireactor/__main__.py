"""`python3 -m minireactor`."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # Ctrl-C while the rest is being imported is an end, not a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from minireactor.cli import main

    sys.exit(main())
