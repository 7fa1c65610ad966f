"""Several processes on this machine that train one model: started by torchrun, or as it would start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from forkserver import FORKSERVER


def torchrun(n_processes: int, *command: object) -> str:
    """Run a Python script or module in `n_processes` processes on this machine, and return what they print."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *map(str, command)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def forked(n_processes: int, function: Callable[..., None], *arguments: object) -> str:
    """Call `function` in `n_processes` processes that are told what torchrun tells, and return what they print.

    They are forked with PyTorch imported, which saves seconds of each and of torchrun itself. AssertionError if one fails.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting_place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    with TemporaryDirectory() as folder:
        running = {}
        for rank in range(n_processes):
            told = meeting_place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes)}
            process = FORKSERVER.Process(target=_run, args=(told, Path(folder, f"{rank}"), function, arguments))
            process.start()
            running[process.sentinel] = process
        while running:
            for ended in map(running.pop, wait(running)):
                ended.join()
                if ended.exitcode:
                    for other in running.values():
                        other.kill()
                assert ended.exitcode == 0, f"a process ended with {ended.exitcode}"
        return "".join(Path(folder, f"{rank}").read_text() for rank in range(n_processes))


def command(main: Callable[[], None], *options: object) -> None:
    """Call the `main` of a command line with `options`."""
    sys.argv = ["command", *map(str, options)]
    main()


def _run(told: dict[str, str], printed: Path, function: Callable[..., None], arguments: tuple) -> None:
    os.environ.update(told)
    torch.set_num_threads(1)
    with printed.open("w") as out, redirect_stdout(out):
        function(*arguments)
