"""The `ustack` command at work: against itself without privilege, and against programs of the machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest

from ustack import testbed

USTACK = (sys.executable, "-P", "-m", "ustack.cli")
QUICK = ("--seconds", "0.2", "--rounds", "50", "--file-size", "1")


def ustack(*args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*USTACK, *args], capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()


# --- without privilege


def test_ping_over_a_pair():
    done = ustack("ping", "--link", "pair", "-c", "3", "-i", "0", "10.9.0.1")
    assert done.returncode == 0, done.stderr
    assert "3 sent, 3 received" in done.stdout


def test_ping_says_its_figures_as_json():
    done = ustack("ping", "--link", "pair", "-c", "2", "-i", "0", "--json", "10.9.0.1")
    figures = json.loads(done.stdout)
    assert (figures["sent"], figures["received"]) == (2, 2)
    assert 0 < figures["min_us"] <= figures["p50_us"] <= figures["max_us"]


def test_ping_of_nobody_fails_with_1():
    done = ustack("ping", "--link", "pair", "-c", "1", "-W", "0.2", "10.9.0.99")
    assert done.returncode == 1
    assert "1 sent, 0 received" in done.stdout
    assert "Traceback" not in done.stderr


def test_nc_carries_both_directions():
    text = "a line\n" * 50_000
    done = ustack("nc", "--link", "pair", "10.9.0.1", "7", input=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout == text


def test_nc_to_a_closed_port_is_refused():
    done = ustack("nc", "--link", "pair", "10.9.0.1", "4444", input="")
    assert done.returncode == 1
    assert "refused" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_nc_with_datagrams():
    done = ustack("nc", "-u", "-w", "1", "--link", "pair", "10.9.0.1", "7", input="hello")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello"


def test_a_capture_file_is_written(tmp_path):
    path = tmp_path / "trace.pcapng"
    assert ustack("ping", "--link", "pair", "-c", "1", "--capture", str(path), "10.9.0.1").returncode == 0
    assert path.read_bytes()[:4] == bytes.fromhex("0a0d0d0a")      # a section header block
    assert path.stat().st_size > 200


def test_a_missing_device_is_one_sentence():
    done = ustack("ping", "--link", "ring:no-such-dev", "10.9.0.1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no-such-dev" in done.stderr


def test_the_demonstration_without_privilege():
    done = ustack("demo", "--unprivileged", "--json", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert list(outcome["results"]) == ["d"]
    assert outcome["results"]["d"]["up"] > 0
    assert outcome["failed"] == {}


def test_the_table_of_the_demonstration():
    done = ustack("demo", "--unprivileged", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ustack <> ustack, one process" in done.stdout
    assert "tx.copy" in done.stdout


# --- against the kernel and its programs


class Served:
    """A running `ustack serve`, with the kernel's end of its TAP configured."""

    def __init__(self, ns: testbed.Namespace, *args: str, cwd=None) -> None:
        self.ns = ns
        self.process = ns.popen(*USTACK, "serve", *args, "--link", "tap:us0", "--address", "10.9.0.2/24",
                                stderr=subprocess.PIPE, text=True, cwd=cwd)
        line = self.process.stderr.readline()
        assert line.startswith("serving"), line + self.process.stderr.read()
        ns.add_address("us0", "10.9.0.1/24")
        ns.up("us0")

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.mark.root
@pytest.mark.tun
class TestServe:
    def test_curl_downloads_what_was_served(self, namespace, tmp_path):
        data = os.urandom(3_000_000)
        (tmp_path / "f.bin").write_bytes(data)
        Served(namespace, "http", "--quiet", cwd=tmp_path)
        got = namespace.run("curl", "-sS", "--max-time", "30", "http://10.9.0.2/f.bin", text=False, check=True).stdout
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()

    def test_ncat_and_echo(self, namespace):
        Served(namespace, "echo", "--port", "7000")
        text = "hello from the kernel\n" * 2000
        done = namespace.run("ncat", "10.9.0.2", "7000", input=text, stdin=None)
        assert done.stdout == text, done.stderr

    @pytest.mark.parametrize("size", [0, 56, 1472, 1473, 65507])
    def test_ping_of_every_size(self, namespace, size):
        Served(namespace, "discard")
        done = namespace.run("ping", "-c", "2", "-i", "0.01", "-W", "5", "-s", str(size), "10.9.0.2")
        assert done.returncode == 0, done.stdout
        assert " 0% packet loss" in done.stdout

    def test_ss_and_stat_see_it(self, namespace):
        served = Served(namespace, "chargen", "--port", "1900")
        rows = json.loads(ustack("ss", "--json").stdout)
        assert [(r["pid"], r["state"]) for r in rows] == [(served.process.pid, "LISTEN")]
        assert "1900" in ustack("ss").stdout
        (document,) = json.loads(ustack("stat", "--json").stdout)
        assert document["command"] == "serve chargen"
        why = ustack("stat", "--why")
        assert why.returncode == 0, why.stderr

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_it_goes_without_a_trace(self, namespace, number, status, tmp_path):
        served = Served(namespace, "echo")
        assert served.stop(number) == status
        assert namespace.links() == ["lo"]
        assert list((tmp_path / "run").rglob("*.sock")) == []
        assert "Traceback" not in served.process.stderr.read()


@pytest.mark.root
def test_capture_of_a_device(two_namespaces, tmp_path):
    a, b = two_namespaces
    path = tmp_path / "trace.pcapng"
    recorder = b.popen(*USTACK, "capture", "--link", "ring:b0", "-c", "4", str(path), stderr=subprocess.PIPE, text=True)
    assert recorder.stderr.readline().startswith("recording")
    assert a.run("ping", "-c", "3", "-i", "0.01", "10.9.0.2").returncode == 0
    assert recorder.wait(30) == 0
    assert path.stat().st_size > 300


@pytest.mark.root
@pytest.mark.tun
def test_the_whole_demonstration():
    done = ustack("demo", "--json", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert sorted(outcome["results"]) == ["a", "b", "c", "d", "e", "kernel"], outcome
    assert len({r["sha256"] for r in outcome["results"].values()}) == 1


@pytest.mark.root
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demonstration_removes_what_it_made(tmp_path, number, status):
    files = tmp_path / "tmp"
    files.mkdir()
    with subprocess.Popen([*USTACK, "demo", "--only", "c", "--seconds", "60"], stdout=subprocess.DEVNULL, text=True,
                          stderr=subprocess.PIPE, env=os.environ | {"TMPDIR": str(files)}) as demo:
        for line in demo.stderr:
            if "bulk out" in line:
                break
        assert list(files.iterdir())
        peers = children(demo.pid)
        assert peers
        demo.send_signal(number)
        assert demo.wait(60) == status
        assert "Traceback" not in demo.stderr.read()
    assert list(files.iterdir()) == []
    for pid in peers:
        assert not os.path.exists(f"/proc/{pid}")


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(child) for child in f.read().split()]


@pytest.mark.root
def test_without_tun_the_rest_of_the_demonstration_runs(monkeypatch, capsys):
    from ustack import cli
    from ustack._demo import scenes

    monkeypatch.setattr(testbed, "why_no_tun", lambda: "no tun here: chmod it")
    monkeypatch.setattr(scenes, "SCENES", [
        scenes.Scene(s.key, s.title, fake_result, s.needs) for s in scenes.SCENES])
    assert cli.main(["demo"]) == 0
    out = capsys.readouterr().out
    assert out.count("no tun here: chmod it") == 2
    assert out.count("not run") == 4


def fake_result(_run):
    from ustack._demo.measure import Result

    return Result(up=1.0, down=1.0, sent=1, received=1)
