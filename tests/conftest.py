"""What a test may need and cannot have everywhere; and what a run says about the tests that it left out."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings

from ustack import testbed

# Programs that tests start must import the installed package, not the sources in the working directory.
os.environ["PYTHONSAFEPATH"] = "1"

if os.environ.get("CI"):                        # the same examples each time: new ones are looked for at leisure
    settings.register_profile("ci", derandomize=True, deadline=None)
    settings.load_profile("ci")
if os.environ.get("USTACK_SANITIZED"):          # by scripts/sanitize: everything takes several times as long
    settings.register_profile("sanitized", derandomize=True, deadline=None, max_examples=25)
    settings.load_profile("sanitized")


def pytest_configure() -> None:
    """End in good order when scripts/test is terminated."""
    if os.environ.get("USTACK_TEST_SCRIPT"):
        signal.signal(signal.SIGTERM, lambda _number, _frame: pytest.exit("terminated", 128 + signal.SIGTERM))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Remove the folder that scripts/test made for this run."""
    if os.environ.get("USTACK_TEST_SCRIPT"):
        shutil.rmtree(os.environ.get("PYTEST_DEBUG_TEMPROOT", ""), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with reason and remedy, what this machine or user cannot run."""
    checks = {"root": testbed.why_no_namespaces, "tun": testbed.why_no_tun}
    wanted = {name for name in checks if any(item.get_closest_marker(name) for item in items)}
    missing = {name: why for name in wanted if (why := checks[name]())}
    for item in items:
        for name, why in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=why))
                break


def _left_out(config: pytest.Config) -> Counter[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reasons: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", []) if reporter else []:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text.removeprefix("Skipped: ")] += 1
    return reasons


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """If tests were left out: 77 where scripts/test asked for it, a failure in CI."""
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and _left_out(session.config):
        if os.environ.get("CI") == "true":
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif os.environ.get("USTACK_TEST_SCRIPT"):
            session.exitstatus = 77


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List what could not run here."""
    reasons = _left_out(config)
    if not reasons:
        return
    in_ci = os.environ.get("CI") == "true"
    terminalreporter.section("not run here (a failure in CI)" if in_ci else "not run here")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:4d}  {reason}")


@pytest.fixture
def namespace() -> Iterator[testbed.Namespace]:
    """A network namespace for one test; the test needs the mark ``root``."""
    with testbed.Namespace() as ns:
        yield ns


@pytest.fixture
def two_namespaces() -> Iterator[tuple[testbed.Namespace, testbed.Namespace]]:
    """Two namespaces and a veth: 10.9.0.1/24 on ``a0`` in the first, 10.9.0.2/24 on ``b0`` in the second."""
    with testbed.Namespace("a") as a, testbed.Namespace("b") as b:
        testbed.veth(a, "a0", b, "b0")
        a.add_address("a0", "10.9.0.1/24")
        b.add_address("b0", "10.9.0.2/24")
        yield a, b


@pytest.fixture
def tap_bed() -> Iterator[testbed.Bed]:
    """The kernel and a link for a stack at the two ends of a TAP; marks ``root`` and ``tun``."""
    with testbed.over_tap() as bed:
        yield bed


@pytest.fixture
def ring_bed() -> Iterator[testbed.Bed]:
    """The kernel at one end of a veth, packet rings for a stack at the other; mark ``root``."""
    with testbed.over_veth() as bed:
        yield bed
