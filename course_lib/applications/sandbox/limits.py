"""Stands in for `supervisor` where there are none of Linux's fences: limits alone, with `sandbox-exec` around them on a Mac.

Started as a script, it finds beside it only `supervisor`, whose request it reads and whose report it writes. What the program
may take is bounded twice, here too: by setrlimit(2) for each of its processes, as far as the system lets it (macOS bounds no
memory), and by looking, for all of them together; `ps` looks, several times in a second, as there is no /proc to read.

The program is in a session of its own, and one signal ends its group. A process that leaves the group by setsid(2) is neither
counted nor ended, and processor time is counted for each process by itself.
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

from supervisor import ENVIRONMENT, OPEN_FILES, end_all, watch

_LEFT_OPEN = 64  # processes that the user may start elsewhere meanwhile; the look is exact


def _processes() -> list[tuple[int, int, int]]:
    """Return user, group and memory in KiB of all processes on this machine."""
    command = ["ps", "-A", "-o", "uid=", "-o", "pgid=", "-o", "rss="]
    table = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
    return [tuple(map(int, line.split())) for line in table.splitlines()]


def _taken(group: int) -> dict[str, float]:
    """Return what the processes of a group take together; their processor time and what they wrote, `ps` does not tell."""
    memory = [1024 * kib for _, theirs, kib in _processes() if theirs == group]
    return {"processes": len(memory), "memory": sum(memory), "processor": 0.0, "written": 0.0}


def _bound_resources(request: dict, n_tasks: int) -> None:
    """Set this process's limits; `n_tasks` are the user's processes, which count against the limit on them."""
    seconds = math.ceil(request["processor"])  # the kernel knows whole ones
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),  # a signal with a name, and a second later the end
        resource.RLIMIT_FSIZE: (request["disk"],) * 2,
        resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
        resource.RLIMIT_CORE: (0, 0),
    }
    if sys.platform != "linux":  # which counts threads, too, that `ps` does not show
        limits[resource.RLIMIT_NPROC] = (n_tasks + request["processes"] + _LEFT_OPEN,) * 2
    for what, bounds in limits.items():
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, bounds if hard == resource.RLIM_INFINITY else tuple(min(one, hard) for one in bounds))
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        with suppress(AttributeError, ValueError):  # OpenBSD has no RLIMIT_AS; macOS has both, and takes no number
            resource.setrlimit(getattr(resource, name), (request["memory"], request["memory"]))


def _become(request: dict, streams: list[int], n_tasks: int, failure: int) -> None:
    """Become the program, in the child; what fails, if anything does, is written to `failure`, which closes as it starts."""
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(request["folder"])
        _bound_resources(request, n_tasks)
        homes = dict.fromkeys(("HOME", "TMPDIR", "PWD"), request["folder"])
        command = [*request["around"], request["python"], "-I", "-S", "-B", "-X", "utf8", request["program"]]
        os.execve(command[0], command, ENVIRONMENT | homes)
    except BaseException as error:
        os.write(failure, f"{type(error).__name__}: {error}".encode())
    os._exit(127)


def main() -> None:
    """Read the request, run the program, write the report, end everything."""
    request = json.loads(sys.stdin.buffer.readline())
    os.umask(0o077)
    n_tasks = sum(user == os.getuid() for user, _, _ in _processes())
    with tempfile.TemporaryFile() as file:  # it has no name by which it could be read again
        file.write(request["stdin"].encode("latin-1"))
        given = os.dup(file.fileno())
    os.lseek(given, 0, os.SEEK_SET)
    output, error, failure = os.pipe(), os.pipe(), os.pipe()
    program = os.fork()
    if program == 0:
        _become(request, [given, output[1], error[1]], n_tasks, failure[1])
    for number in (given, output[1], error[1], failure[1]):
        os.close(number)
    try:
        with open(failure[0]) as file:
            failed = file.read()
        report = {"failed": failed} if failed else watch(program, (output[0], error[0]), [], request, _taken)
    finally:
        end_all(program)
        while _taken(program)["memory"]:  # of its children that are not ours to wait for; the dead have none
            time.sleep(0.01)
    with open(1, "w", closefd=False) as file:
        json.dump(report, file)


if __name__ == "__main__":
    main()
