"""The device process of a shared-memory link: ``python -m ustack._device FD``. Started and ended by the link."""

import os
import sys

from ustack._core.py.shm import serve

if __name__ == "__main__":
    # Nothing to clean up, and whoever waits for the end waits for the interpreter too.
    os._exit(min(-serve(int(sys.argv[1])), 255))
