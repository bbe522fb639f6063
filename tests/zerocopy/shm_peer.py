"""The other process of a SharedMemory link: a stack that echoes, or takes what comes and tells its SHA-256."""

import hashlib
import sys

import ustack

PORT = 7


def main(path: str, address: str, work: str) -> None:
    link = ustack.SharedMemory.connect(path, timeout=60)
    with ustack.Stack() as net:
        net.add_interface(link, addresses=[f"{address}/24"])
        with net.create_server((address, PORT)) as listener:
            print("ready", flush=True)
            s, _ = listener.accept()
            with s:
                s.settimeout(60)
                seen = hashlib.sha256()
                while data := s.recv(1 << 18):
                    seen.update(data)
                    if work == "echo":
                        s.sendall(data)
                s.sendall(seen.digest())


if __name__ == "__main__":
    main(*sys.argv[1:])
