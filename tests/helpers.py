"""Small things that several test files use."""

import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def load_tool(name: str) -> ModuleType:
    """The module ``tools/<name>.py`` or program ``tools/<name>``, which is not installed anywhere."""
    path = ROOT / "tools" / name
    if not path.exists():
        path = path.with_suffix(".py")
    spec = importlib.util.spec_from_loader(name, importlib.machinery.SourceFileLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module          # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


class Background:
    """A function that runs in a thread which never keeps the process from exiting."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function, *arguments), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._outcome = function(*arguments)
        except BaseException as error:
            self._error = error

    def result(self, timeout: float) -> Any:
        """What it returned, after at most so many seconds; raises what it raised, or TimeoutError."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"still running after {timeout} s")
        if self._error is not None:
            raise self._error
        return self._outcome


@contextmanager
def in_thread(function: Callable[..., Any], *arguments: Any) -> Iterator[Background]:
    """Run a function in a daemon thread beside the body; afterwards it has to end by itself within a minute."""
    one = Background(function, *arguments)
    yield one
    one.result(60)
