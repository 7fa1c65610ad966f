"""Run a Python program that nobody has read, such as one that a model wrote, and learn how it went; the machine is unharmed.

- `run` starts it; its `Result` says what it wrote, and which of its `Limits` it broke
- `supervisor` is the process between it and us, with the fences that the kernel keeps up
- `limits` stands in for it where there are none: on macOS, and other kinds of Unix
- `judge` is a program to run here: tests, and beside them, in another process, a function that cannot cheat them

The program is alone with Python's standard library (`-I -S`), in a process of its own, in an empty folder that is its home.
Two ways to hold it in on Linux, and both are tried by the same hostile programs (`tests/applications/test_sandbox*.py`):

- *Bubblewrap*, where the system has it and lets it work: a world of its own, without our files, processes and networks, and
  all the fences below inside.
- *The fences alone* (`supervisor`): the same kernel, seen through a filter. The program still sees which processes and users
  there are, and files that everybody may read under /usr; what it holds on the disk is counted by looking, not by a wall.

Either way the kernel asks the supervisor before it starts a process or a thread, so that no bomb grows. Where it cannot (before
Linux 5.7, in gVisor, under another supervisor of this kind), a limit for each user stands in. That limit does not bind root, so
nothing is run as root there. The program may notice that it waits: a signal that it handles meanwhile interrupts `os.fork` with
an InterruptedError.

A fault in the kernel itself, or how long things take, is open to it either way: a virtual machine is the next stronger wall.

Linux alone has these fences. Elsewhere there are two weaker ways, for programs that you would run yourself, too, since each
leaves much of the machine open, and one warning says what:

- *sandbox-exec*, where macOS lets it work: the network, and writing outside its folder, are refused. It reads what you can.
- *Limits alone* (`limits`): on time, memory, processes, disk and output. It reads and writes what you can, and the network.

On Windows `run` refuses.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from threading import Timer
from typing import Literal

from course_lib.checks import check, check_fields

__all__ = ["Limits", "Result", "Status", "contained_by", "run"]

Status = Literal[
    *("ok", "error", "crash", "killed", "time", "processor", "memory"),
    *("processes", "disk", "output", "network", "forbidden"),
]
_MEANINGS = {
    "ok": "it ended well",
    "error": "it ended with an error",
    "crash": "the interpreter crashed",
    "killed": "it was killed from outside",
    "time": "it was still running when its time was over",
    "processor": "it used up its processor time",
    "memory": "it wanted more memory than it may have",
    "processes": "it started more processes or threads than it may have",
    "disk": "it wrote more, or more files, than it may",
    "output": "it printed more than it may",
    "network": "it asked for the network, and there is none",
    "forbidden": "it asked for something that is forbidden, such as a file outside its folder",
}
_LAST_WORDS = (  # what Python's errors say at the end of a traceback, where the kernel has refused something
    (r"^MemoryError", "memory"),
    (r"\[Errno (100|-3)\]", "network"),
    (r"\[Errno (27|28|122)\]", "disk"),
    (r"\[Errno (1|13|30)\]", "forbidden"),
)
_NO_MORE_PROCESSES = r"\[Errno (11|35)\] Resource temporarily|can't start new thread"
_LONGEST = 1_000_000  # characters of a program, and of its input
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_LIMITS = Path(__file__).with_name("limits.py")
_SANDBOX_EXEC = Path("/usr/bin/sandbox-exec")
_PROFILE = """(version 1)
(allow default)
(deny network*)
(deny file-write*)
(allow file-write* (subpath (param "FOLDER")) (literal "/dev/null"))
"""  # the last rule that fits counts; of this language Apple documents little beyond sandbox-exec(1), and calls that deprecated
_Way = Literal["bubblewrap", "fences", "sandbox-exec", "limits"]
_PATIENCE = 10.0  # seconds that the supervisor is given beyond its program's time
_MEMORY_OF_PYTHON = 64 * 2**20


@dataclass(frozen=True)
class Limits:
    """What a program may take, all its processes together. Raises ValueError for nonsense, or too little to start Python.

    `seconds` on the clock, `processor` seconds at work, `memory` in bytes, `processes` and threads, `disk` in bytes and `files`
    in its folder, `output` in bytes of stdout and of stderr each. At most four times `disk` may be written in all.
    """

    seconds: float = 10.0
    processor: float = 5.0
    memory: int = 256 * 2**20
    processes: int = 8
    disk: int = 16 * 2**20
    files: int = 100
    output: int = 100_000

    def __post_init__(self):
        short, small = (0.1, 3600), (4096, 2**30)
        check_fields(
            self,
            **{"seconds": short, "processor": short, "memory": (_MEMORY_OF_PYTHON, 2**40), "processes": (1, 256)},
            **{"disk": small, "files": (1, 10_000), "output": (0, 2**24)},
        )


@dataclass(frozen=True)
class Result:
    """How a program went.

    `status` says it in a word; `code` is what it exited with, minus the signal that ended it, None if it was ended from here;
    `stdout` and `stderr` are cut at the limit, bytes that are no UTF-8 replaced; `seconds` are on the clock.

    The words memory, disk, processes, network and forbidden are said too where the program itself ended with Python's error for
    it. A program that survives a refusal and goes on is judged by its end: what it asked for, it did not get.
    """

    status: Status
    code: int | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def meaning(self) -> str:
        """The status in a sentence, with the last line of stderr."""
        last = self.stderr.strip().rpartition("\n")[2]
        return f"{_MEANINGS[self.status]}: {last[:300]}" if last and self.status != "ok" else _MEANINGS[self.status]


def run(program: str, *, stdin: str = "", limits: Limits = Limits(), bubblewrap: bool | None = None) -> Result:
    """Run a Python program with `stdin` as its input, within `limits`, and return how it went when all of it has ended.

    `bubblewrap`: True or False to ask for one of Linux's two ways of containing it, None for the strongest that works here;
    where that is not Bubblewrap, one warning says what it leaves open. May be called in many threads at once, and be
    interrupted. Raises ValueError for a program or an input that is no string, or longer than a million characters;
    RuntimeError where the program cannot be contained as asked: it is not run then.
    """
    for name, text in (("program", program), ("stdin", stdin)):
        check(name, text, str)
        if len(text) > _LONGEST:
            raise ValueError(f"{name} has {len(text):,} characters; at most {_LONGEST:,} are run")
    check("limits", limits, Limits)
    if bubblewrap is None:
        name = contained_by()
        return _run(program, stdin, limits, way="fences" if name.endswith("seccomp") else name)
    way = "bubblewrap" if bubblewrap else "fences"
    if reason := _trial(way):
        raise RuntimeError(
            f"programs cannot be contained here {'with' if bubblewrap else 'without'} Bubblewrap: {reason}"
        )
    return _run(program, stdin, limits, way=way)


@cache
def contained_by() -> Literal["bubblewrap", "landlock and seccomp", "seccomp", "sandbox-exec", "limits"]:
    """Return the strongest way in which programs can be held in here; it is tried once. Warns if that is not Bubblewrap.

    Raises RuntimeError where there is none, as on Windows.
    """
    ways = ("bubblewrap", "fences") if sys.platform == "linux" else ("sandbox-exec", "limits")
    way = next((way for way in ways if not _trial(way)), None)
    if way is None:
        raise RuntimeError(f"nothing here can contain a program, so none is run: {_trial(ways[-1])}")
    if way == "bubblewrap":
        return way
    warnings.warn(_what_is_open(way), stacklevel=3)
    if way == "fences":
        return "landlock and seccomp" if _has_landlock() else "seccomp"
    return way


def _what_is_open(way: _Way) -> str:
    """Return what a way of containing programs leaves open to them."""
    if way == "fences":
        reads = (
            "read what everybody may under /usr" if _has_landlock() else "read all files that you can (and write none)"
        )
        return (
            f"programs run without Bubblewrap here ({_trial('bubblewrap')}). Signals, sockets and files elsewhere are refused "
            f"to them by the kernel, but they share its view of the machine: they can see that files and processes exist, and "
            f"{reads}. To close that, install the package bubblewrap."
        )
    if way == "sandbox-exec":
        return (
            "programs run under sandbox-exec here. It refuses them the network and writing outside their folder, but they can "
            "read all files that you can, end your processes, and leave processes of their own behind. Run only what you "
            "would run yourself; to close that, run the course on Linux."
        )
    return (
        f"programs run under limits alone here ({_trial('sandbox-exec')}). They can take only so much time, memory and disk, "
        f"but they can read your files, write wherever you can, use the network, end your processes, and leave processes of "
        f"their own behind. Run only what you would run yourself; to close that, run the course on Linux."
    )


_THREAD = "import threading; thread = threading.Thread(target=print); thread.start(); thread.join()"
_REFUSED = """
import socket
for harm in (lambda: open("../outside", "w"), lambda: socket.socket().connect(("127.0.0.1", 9))):
    try:
        harm()
    except PermissionError:
        continue
    except OSError:
        pass
    raise SystemExit("it does not refuse the network, and files outside")
"""


@cache
def _trial(way: _Way) -> str:
    """Return why a small program cannot be run in this way, "" if it can."""
    if sys.platform == "win32":
        return "Windows has nothing that takes; run the course in WSL, or in a Linux container"
    if way in ("bubblewrap", "fences") and sys.platform != "linux":
        return "Linux alone has what it takes"
    if way == "bubblewrap" and not shutil.which("bwrap"):
        return "there is no program bwrap"
    if way == "sandbox-exec" and not _SANDBOX_EXEC.exists():
        return f"there is no program {_SANDBOX_EXEC}"
    try:
        result = _run(_THREAD + _REFUSED if way == "sandbox-exec" else _THREAD, "", Limits(), way=way)
    except RuntimeError as error:
        return str(error)
    return "" if result.status == "ok" else result.meaning


@cache
def _has_landlock() -> bool:
    return _report("", "", Limits(), way="fences")[0]["landlock"]


def _run(program: str, stdin: str, limits: Limits, *, way: _Way, landlock: bool = True) -> Result:
    report, folder = _report(program, stdin, limits, way=way, landlock=landlock)
    stdout, stderr = (
        report[name].encode("latin-1").decode("utf-8", "replace").replace(f"{folder}/", "")
        for name in ("stdout", "stderr")
    )
    return Result(_status(report, stderr), report["code"], stdout, stderr, report["seconds"])


def _report(program: str, stdin: str, limits: Limits, *, way: _Way, landlock: bool = True) -> tuple[dict, Path]:
    """Run a program; return what the supervisor reports, and the folder, removed by now, that the texts speak of."""
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    with _folder() as top:
        file, home = top / "program.py", top / "home"
        home.mkdir(mode=0o700)
        file.write_bytes(program.encode("utf-8", "surrogatepass"))
        request = asdict(limits) | {
            **{
                "program": str(file),
                "folder": str(home),
                "stdin": stdin.encode("utf-8", "surrogatepass").decode("latin-1"),
            },
            **{"python": str(python), "prefix": sys.base_prefix, "mounts": way == "bubblewrap", "landlock": landlock},
            "around": _seatbelt(home) if way == "sandbox-exec" else [],
        }
        if way in ("sandbox-exec", "limits"):  # without -I, for it imports what lies beside it
            command = [str(python), "-E", "-s", "-S", "-B", str(_LIMITS)]
        else:
            command = [str(python), "-I", "-S", "-B", str(_SUPERVISOR)]
        if way == "bubblewrap":
            command = [*_walls(python, file, home, limits), *command]
        return _ask(command, request, limits.seconds + _PATIENCE), top


def _status(report: dict, stderr: str) -> Status:
    code = report["code"]
    if report["status"] or code == 0:
        return report["status"] or "ok"
    if code < 0:
        return {
            signal.SIGKILL: "killed",
            signal.SIGTERM: "killed",
            signal.SIGXCPU: "processor",
            signal.SIGXFSZ: "disk",
        }.get(-code, "crash")
    if re.search(_NO_MORE_PROCESSES, stderr):  # anywhere: several of them write at once
        return "processes"
    last = stderr.strip().rpartition("\n")[2]
    return next((status for words, status in _LAST_WORDS if re.search(words, last)), "error")


def _walls(python: Path, file: Path, home: Path, limits: Limits) -> list[str]:
    """Return the command of Bubblewrap: a world with Python and the system's libraries in it, and an empty folder in memory."""
    shown = {"/usr", sys.base_prefix, str(python), str(file), str(_SUPERVISOR)}
    places = ("/lib", "/lib64", "/bin", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")
    return [
        *(shutil.which("bwrap"), "--unshare-all", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL", "--clearenv"),
        *(word for path in sorted(shown) for word in ("--ro-bind", path, path)),
        *(word for path in places for word in ("--ro-bind-try", path, path)),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--size", str(limits.disk), "--tmpfs", str(home)),
        *("--remount-ro", "/", "--remount-ro", "/dev", "--"),
    ]


def _seatbelt(home: Path) -> list[str]:
    """Return the command of macOS's sandbox-exec: no network, and nothing is written outside `home`, a path without links."""
    return [str(_SANDBOX_EXEC), "-D", f"FOLDER={home}", "-p", _PROFILE]


def _ask(command: list[str], request: dict, patience: float) -> dict:
    """Start the supervisor, and return its report; whatever happens here, all that it has started has ended then."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env={}, start_new_session=True, **pipes) as process:
        timer = Timer(patience, process.kill)
        try:
            timer.start()
            with suppress(BrokenPipeError):  # it could not start, and says why on stderr
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            answer = process.stdout.read()
        finally:
            timer.cancel()
            with suppress(BrokenPipeError):
                process.stdin.close()  # tells the supervisor to end everything
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        complaint = process.stderr.read().decode(errors="replace").strip()
    try:
        report = json.loads(answer)
    except ValueError:
        raise RuntimeError(complaint[-500:] or "the supervisor was killed") from None
    if "failed" in report:
        raise RuntimeError(report["failed"])
    return report


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a new folder, and remove it in the end with whatever is in it."""
    top = Path(tempfile.mkdtemp(prefix="sandbox-")).resolve()
    try:
        yield top
    finally:
        _remove(top)


def _remove(top: Path) -> None:
    """Remove a folder that may hold folders closed to all, or more of them in each other than a path can name."""
    folders, n_moved = [top], 0
    while folders:
        folder = folders[-1]
        for entry in list(os.scandir(folder)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            n_moved += 1
            lifted = top / f".{n_moved}"  # next to the top, so that no path grows long
            os.rename(entry.path, lifted)
            folders.append(lifted)
        if folders[-1] == folder:
            folders.pop()
            os.rmdir(folder)
