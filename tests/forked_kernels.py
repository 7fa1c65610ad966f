"""Jupyter kernels that begin with the course imported: each is forked from one process that has, and so starts at once.

    python forked_kernels.py DOOR                       is that process; it is asked for kernels at the socket numbered DOOR
    python forked_kernels.py CONNECTION_FILE ADDRESS    is what Jupyter starts as a kernel: it asks there for one, hands on the
                                                        signals that it gets, and ends when the kernel does

A kernel ends when the process that asked for it is gone. All else is as in any kernel: the lessons' own runs, under nbval,
are the test that the course can be imported by one that was not forked.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def forked_kernels(folder: Path) -> Iterator[None]:
    """Have the kernel `python3` of a Jupyter server whose JUPYTER_PATH is `folder` forked, as long as the context lasts."""
    address = str(folder / "forks")
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    command = [sys.executable, "-S", "-E", __file__, "{connection_file}", address]
    spec.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    with (folder / "kernels.log").open("w") as log, socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        server, number = [sys.executable, __file__], door.fileno()
        process = subprocess.Popen([*server, str(number)], pass_fds=[number], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _fork_when_asked(number: int) -> None:
    from ipykernel import kernelapp

    import course_lib.widgets  # noqa: F401

    del sys.path[0]  # the folder of this file
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the kernels
    with socket.socket(fileno=number) as door:
        while True:
            line, _ = door.accept()
            if os.fork() == 0:
                break
            line.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # as Jupyter starts a kernel
    asked = json.loads(line.makefile().readline())
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    line.sendall(f"{os.getpid()}\n".encode())
    threading.Thread(target=lambda: (line.recv(1), os._exit(1)), daemon=True).start()
    sys.argv[1:] = ["-f", asked["connection_file"]]
    kernelapp.launch_new_instance()


def _ask(connection_file: str, address: str) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        asked = {"connection_file": connection_file, "environment": dict(os.environ), "folder": os.getcwd()}
        line.sendall(json.dumps(asked).encode() + b"\n")
        kernel = int(line.makefile().readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.killpg(kernel, number))
        line.recv(1)  # nothing comes: the kernel has ended


if __name__ == "__main__":
    _ask(*sys.argv[1:]) if len(sys.argv) == 3 else _fork_when_asked(int(sys.argv[1]))
