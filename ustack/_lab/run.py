"""Runs experiments one after the other, and makes the document that goes into JSON."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

from ustack._bench import machine
from ustack._lab.bench import CannotMeasure, Lab
from ustack._lab.form import Experiment, Result, Row
from ustack._lab.progress import Progress


def perform(experiment: Experiment, lab: Lab) -> Result:
    """One experiment. What cannot be measured here is told, not raised."""
    result = Result(experiment)
    if experiment.run is None:
        result.not_run = experiment.absent
        return result
    began = time.monotonic()
    lab.missing = result.missing
    gc.collect()
    gc.disable()
    try:
        result.rows = lab.known[experiment.number] = experiment.run(lab)
    except (CannotMeasure, OSError) as e:
        result.not_run = str(e) or type(e).__name__
    except Exception as e:  # one that fails does not take the others with it
        result.not_run = f"it failed: {type(e).__name__}: {e}"
        result.failed = True
    finally:
        gc.enable()
        result.seconds = time.monotonic() - began
    return result


def perform_all(
    experiments: Sequence[Experiment], quick: bool, progress: Progress, tell: Callable[[Result], None]
) -> list[Result]:
    """All of them; each result is told as soon as it is there."""
    results: list[Result] = []
    known: dict[str, list[Row]] = {}
    for experiment in experiments:
        progress.begin(f"{experiment.number} {experiment.title}")
        result = perform(experiment, Lab(quick, progress, known))
        progress.end()
        progress.clear()
        results.append(result)
        tell(result)
    return results


def document(results: Sequence[Result], quick: bool, before: dict[str, Any]) -> dict[str, Any]:
    """What ``--json`` writes. ``rows`` are E1's of techniques, if it was run; ``before``: the machine when it began."""
    found: list[Any] = next((r.as_json()["rows"] for r in results if r.experiment.number == "E1"), [])
    return {
        "machine": before | {"background_cpus_at_end": round(machine.background(), 2)},
        "mode": "quick" if quick else "full",
        "seconds": round(sum(r.seconds for r in results), 1),
        "rows": [row for row in found if "technique" in row],
        "experiments": [r.as_json() for r in results],
    }
