"""A progress bar on standard error, for terminals only: elsewhere it says nothing."""

from __future__ import annotations

import time
from typing import TextIO

WIDTH = 24
PAUSE = 0.1  # seconds between two drawings


class Progress:
    """Experiments done of those to do, the steps of the current one, and the time that it has taken.

    stream: None, or one that is not a terminal: nothing is written.
    """

    def __init__(self, stream: TextIO | None, experiments: int = 1) -> None:
        self.stream = stream if stream is not None and stream.isatty() else None
        self.experiments, self.done, self.steps = experiments, 0, 0
        self.title = ""
        self.began = self.drawn = 0.0

    def begin(self, title: str) -> None:
        """The next experiment."""
        self.title, self.steps, self.began = title, 0, time.monotonic()
        self.draw()

    def step(self) -> None:
        """Something of the experiment was done."""
        self.steps += 1
        if self.stream is not None and time.monotonic() - self.drawn >= PAUSE:
            self.draw()

    def end(self) -> None:
        """The experiment is over."""
        self.done += 1
        self.draw()

    def line(self) -> str:
        """What is shown."""
        full = WIDTH * self.done // max(self.experiments, 1)
        bar = "#" * full + "." * (WIDTH - full)
        seconds = time.monotonic() - self.began
        return f"[{bar}] {self.done}/{self.experiments}  {self.title}  {self.steps} measurements, {seconds:.0f} s"

    def draw(self) -> None:
        """Show it."""
        if self.stream is not None:
            self.drawn = time.monotonic()
            print(f"\r\x1b[K{self.line()[:110]}", end="", file=self.stream, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self.stream is not None:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
