"""How ``ustack ss`` and ``ustack stat`` look into other processes: a Unix socket in each.

The socket is a file ``PID.sock`` in a folder that only its user can enter: ``$XDG_RUNTIME_DIR/ustack``, or
``ustack-UID`` in the folder for temporary files. Whoever connects is sent one JSON document and the
connection is closed; nothing is ever read from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ustack._cli.common import Failure

if TYPE_CHECKING:
    from ustack import Stack

TIMEOUT = 5.0  # seconds that a look into one process may take


def folder() -> Path:
    """The folder of the sockets; it may not exist yet."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "ustack" if runtime else Path(tempfile.gettempdir()) / f"ustack-{os.getuid()}"


def _own_folder() -> Path:
    """The folder, made if need be; PermissionError if somebody else could have put things there."""
    path = folder()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a folder of this user alone")
    return path


def describe(stack: Stack) -> dict[str, Any]:
    """What one stack says of itself."""
    ledger = {reason: {"bytes": n, "calls": calls} for reason, (n, calls) in stack.ledger().items()}
    return {"sockets": stack.sockets(), "counters": stack.stats(), "ledger": ledger}


class Endpoint:
    """Makes the stacks of this process visible while it is open. A context manager."""

    def __init__(self, stacks: Mapping[str, Stack], label: str) -> None:
        self.stacks = dict(stacks)
        self.label = label
        self.path: Path | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="ustack-control", daemon=True)

    def __enter__(self) -> Self:
        try:
            path = _own_folder() / f"{os.getpid()}.sock"
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            self._socket.listen()
        except OSError:  # to be looked into is a convenience: a command works without it
            self._socket.close()
            return self
        self.path = path
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.path is None:
            return
        self.path.unlink(missing_ok=True)
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread out of accept()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self._socket.accept()
            except OSError:
                return
            with conn, contextlib.suppress(OSError):
                conn.settimeout(TIMEOUT)
                conn.sendall(self._document())

    def _document(self) -> bytes:
        stacks = {}
        for name, stack in self.stacks.items():
            with contextlib.suppress(OSError):  # closed while we look
                stacks[name] = describe(stack)
        return json.dumps({"pid": os.getpid(), "command": self.label, "stacks": stacks}).encode()


def running(pids: Collection[int] = ()) -> list[dict[str, Any]]:
    """The documents of this user's processes with an endpoint, by pid. Leftovers of dead ones are removed.

    ``pids``: only these; Failure if one of them is no such process.
    """
    found = []
    paths = folder().glob("*.sock") if folder().is_dir() else []
    for path in sorted(paths, key=lambda p: p.name):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                s.settimeout(TIMEOUT)
                s.connect(str(path))
                with s.makefile("rb") as f:
                    found.append(json.loads(f.read()))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except (OSError, ValueError):
            continue
    missing = set(pids) - {document["pid"] for document in found}
    if missing:
        raise Failure(f"{min(missing)} is no running ustack command of this user: without a pid all are shown")
    return sorted((d for d in found if not pids or d["pid"] in pids), key=lambda document: document["pid"])
