"""The `ustack` command: arguments, exit codes, and the look into other processes."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest

from ustack import cli
from ustack._cli import common, control


def run(*args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-m", "ustack.cli", *args],
                          capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_readable_help(command, capsys):
    with pytest.raises(SystemExit) as e:
        cli.main([command, "--help"])
    assert e.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: ustack {command}")


def test_the_help_lists_every_command():
    out = run("--help").stdout
    for command in cli.COMMANDS:
        assert f"\n    {command} " in out


@pytest.mark.parametrize("args", [
    [],
    ["nonsense"],
    ["ping"],
    ["ping", "not-an-address"],
    ["ping", "--link", "tap:", "10.9.0.1"],
    ["ping", "--link", "tap:a-name-of-more-than-15", "10.9.0.1"],
    ["ping", "--link", "wire", "10.9.0.1"],
    ["ping", "--address", "10.9.0.2", "10.9.0.1"],
    ["ping", "--address", "10.9.0.2/33", "10.9.0.1"],
    ["serve", "echo", "--port", "0"],
    ["serve", "echo", "--port", "65536"],
    ["serve", "gopher"],
    ["nc", "10.9.0.1", "7", "8"],
    ["nc", "-l", "10.9.0.1", "7"],
    ["nc", "10.9.0.1", "seven"],
    ["demo", "--only", "z"],
    ["demo", "--seconds", "0"],
    ["serve", "echo", "--link", "pair"],
    ["serve", "http", "--directory", "/no/such/folder"],
    ["ping", "--link", "pair", "--size", "70000", "10.9.0.1"],
])
def test_wrong_arguments_exit_with_2_and_a_sentence(args):
    done = run(*args)
    assert done.returncode == 2
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_the_peer_of_a_pair_is_another_address_of_the_network():
    assert common.pair_peer("10.9.0.2/24", None) == "10.9.0.1/24"
    assert common.pair_peer("10.9.0.1/24", None) == "10.9.0.2/24"
    assert common.pair_peer("10.9.0.2/24", "10.9.0.77") == "10.9.0.77/24"
    for address, gateway in [("10.9.0.2/24", "10.9.0.2"), ("10.9.0.2/24", "10.8.0.1"), ("10.9.0.2/32", None)]:
        with pytest.raises(common.Failure):
            common.pair_peer(address, gateway)


def test_sizes_and_tables_are_for_people():
    assert [common.size(n) for n in (0, 999, 1500, 2_000_000, 3e9, 5e12)] \
        == ["0 B", "999 B", "1.5 kB", "2.0 MB", "3.0 GB", "5000.0 GB"]
    assert common.table([["a", 1], ["bbb", 22]], ["x", "n"]).split("\n") == ["x     n", "---  --", "a     1", "bbb  22"]


class FakeStack:
    def stats(self):
        return {"ip.rx": 3}

    def ledger(self):
        return {"tx.copy": (100, 2)}

    def sockets(self):
        return [{"state": "LISTEN", "local": ("10.9.0.2", 80), "remote": ("0.0.0.0", 0)}]


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "ustack"


def test_a_running_stack_is_seen_and_then_no_more(runtime, capsys):
    assert control.running() == []
    with control.Endpoint({"stack": FakeStack()}, "serve echo") as endpoint:
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        (document,) = control.running()
        assert document["pid"] == os.getpid()
        assert document["stacks"]["stack"]["counters"] == {"ip.rx": 3}
        assert cli.main(["ss"]) == 0
        assert "LISTEN" in capsys.readouterr().out
        assert cli.main(["ss", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["command"] == "serve echo"
        assert cli.main(["stat"]) == 0
        out = capsys.readouterr().out
        assert "ip.rx" in out
        assert "tx.copy" in out
        assert cli.main(["ss", str(os.getpid())]) == 0
        capsys.readouterr()
        for command in ("ss", "stat"):
            assert cli.main([command, "1"]) == 1
            assert capsys.readouterr().err == (
                f"ustack {command}: 1 is no running ustack command of this user: without a pid all are shown\n")
    assert control.running() == []
    assert not endpoint.path.exists()


def test_the_leftover_of_a_dead_process_is_removed(runtime):
    runtime.mkdir(mode=0o700)
    dead = runtime / "1.sock"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(dead))
    assert control.running() == []
    assert not dead.exists()


def test_a_folder_that_others_may_enter_is_not_used(runtime):
    runtime.mkdir(mode=0o755)
    with control.Endpoint({}, "x") as endpoint:
        assert endpoint.path is None
    assert list(runtime.iterdir()) == []


def test_nothing_running_is_said(runtime, capsys):
    assert cli.main(["ss"]) == 0
    assert cli.main(["stat"]) == 0
    assert capsys.readouterr().out == "no ustack process is running\n" * 2


def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(capsys):
    assert cli.main(["bench", "--json", "/nonexistent/rows", "checksum"]) == 1
    assert capsys.readouterr() == ("", "ustack bench: /nonexistent/rows: No such file or directory\n")
