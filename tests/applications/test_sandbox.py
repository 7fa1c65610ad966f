"""Programs that take too much, each run with Bubblewrap and without: ended, with a clear result, and nothing left of it."""

import os
import signal
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hostile import LONG_LIVED, MARK, TIGHT, attempt, processes_with

from course_lib.applications import sandbox
from course_lib.applications.sandbox import Limits, contained_by, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="programs are contained by Linux alone"),
    pytest.mark.usefixtures("nothing_is_left"),
]
ENDED = {  # programs that take too much, and the word for it
    "many children": (
        "import os, time\nfor i in range(200):\n    if os.fork() == 0:\n        time.sleep(30)\ntime.sleep(30)",
        "processes",
    ),
    "children that hop: each starts the next and ends": (
        "import os, time\nfor i in range(200):\n    if os.fork(): os._exit(0)\n    time.sleep(0.001)",
        "ok",
    ),
    "threads": (
        "import threading, time\nfor i in range(200): threading.Thread(target=time.sleep, args=(30,)).start()",
        "processes",
    ),
    "endless loop": ("while True: pass", "processor"),
    "endless loops in four processes": ("import os\nos.fork()\nos.fork()\nwhile True: pass", "processor"),
    "endless loop that ignores the signal for it": (
        "import signal\nfor s in (signal.SIGTERM, signal.SIGXCPU, signal.SIGINT): signal.signal(s, signal.SIG_IGN)\n"
        "while True: pass",
        "processor",
    ),
    "memory hog": ("block = b'x' * 2_000_000_000", "memory"),
    "memory hog that grows": (
        "blocks = []\nwhile len(blocks) < 2000: blocks.append(bytearray(b'x' * 2**20))",
        "memory",
    ),
    "memory hogs, none too large alone": (
        """
        import os, time
        os.fork(), os.fork()
        block = b'x' * (60 * 2**20)
        time.sleep(30)
        """,
        "memory",
    ),
    "a power that fills the memory": ("x = 9 ** (9 ** 10)", ("memory", "processor")),
    "disk filler": ("file = open('x', 'wb')\nfor i in range(100): file.write(bytes(2**20))", "disk"),
    "disk filler, many files": ("for i in range(19): open(f'{i}', 'wb').write(bytes(2**19))", "disk"),
    "disk filler, files deleted and held open": (
        """
        import os
        files = []
        for i in range(50):
            files.append(open('x', 'wb'))
            os.unlink('x')
            files[-1].write(bytes(2**20 - 1))
            files[-1].flush()
        """,
        "disk",
    ),
    "disk filler, over and over": ("for i in range(400): open('x', 'wb').write(bytes(2**18))", ("disk", "ok")),
    "many files": ("import time\nfor i in range(3000): open(f'{i}', 'wb')\ntime.sleep(30)", "disk"),
    "folders in folders": (
        "import os, time\nfor i in range(3000):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\ntime.sleep(30)",
        "disk",
    ),
    "folders closed to their maker": (
        "import os, time\nfor i in range(100): os.makedirs(f'{i}/x'); os.mkdir(f'{i}/y', 0)\ntime.sleep(30)",
        "disk",
    ),
    "output without end": ("while True: print('again and again')", "output"),
    "output by a child": ("import os\nif os.fork(): os.wait()\nwhile True: print('again and again')", "output"),
    "10 MB of errors": ("import sys\nsys.stderr.write('x' * 10_000_000)", "output"),
    "sleep": ("import time\ntime.sleep(60)", "time"),
    "sleep with its output closed": ("import os, time\nos.close(1), os.close(2)\ntime.sleep(60)", "time"),
    "a process that stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "time"),
    "crash of the interpreter": ("import ctypes\nctypes.string_at(0)", "crash"),
    "abort": ("import os\nos.abort()", "crash"),
    "its own end": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed"),
    "recursion without end": ("def f(): return f()\nf()", "error"),
    "the stack of C": (
        "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()",
        ("crash", "memory", "error", "processor"),
    ),
    "no syntax": ("def f(:", "error"),
    "a NUL in the source": ("print('a')\0", "error"),
    "half a surrogate pair in the source": ("x = '\ud800'", "error"),
    "exit": ("raise SystemExit(3)", "error"),
    "nothing": ("", "ok"),
    "bytes that are no text": ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe\\0ok')", "ok"),
}


@pytest.mark.parametrize("name", ENDED)
def test_what_takes_too_much_is_ended_and_named(name, way):
    program, expected = ENDED[name]
    limits = Limits(**{**vars(TIGHT), "seconds": 1.0}) if expected == "time" else TIGHT
    result = attempt(program, way, limits)
    assert result.status in (expected if isinstance(expected, tuple) else (expected,)), result
    assert len(result.stdout) <= limits.output
    assert len(result.stderr) <= limits.output
    assert result.seconds < limits.seconds + 1


MOST = 2 * TIGHT.processes  # all who ask at once may be let
BOMBS = {  # each of their processes and threads says its number
    "forks": """
        import os
        while True:
            os.fork()
            os.write(1, b"%d " % os.getpid())
        """,
    "forks that take no for an answer": """
        import os
        while True:
            try:
                os.fork()
                os.write(1, b"%d " % os.getpid())
            except OSError:
                pass
        """,
    "children whom nobody waits for": """
        import os
        while child := os.fork():
            os.write(1, b"%d " % child)
        """,
    "threads": """
        import _thread, threading, os
        threading.stack_size(2**16)
        def multiply():
            os.write(1, b"%d " % threading.get_native_id())
            while True:
                try:
                    _thread.start_new_thread(multiply, ())
                except RuntimeError:
                    pass
        multiply()
        """,
    "threads whose process seems dead": """
        import _thread, ctypes, os, threading
        threading.stack_size(2**16)
        def multiply():
            os.write(1, b"%d " % threading.get_native_id())
            while True:
                try:
                    _thread.start_new_thread(multiply, ())
                except RuntimeError:
                    pass
        _thread.start_new_thread(multiply, ())
        ctypes.CDLL(None).pthread_exit(None)
        """,
    "programs, started by vfork": """
        import os, subprocess, sys
        os.write(1, b"%d " % os.getpid())
        while True:
            subprocess.Popen([sys.executable, __file__])
        """,
    "programs, started by posix_spawn": """
        import os, sys
        os.write(1, b"%d " % os.getpid())
        while True:
            os.posix_spawn(sys.executable, [sys.executable, __file__], os.environ)
        """,
}


@pytest.fixture
def guard(monkeypatch):
    """Should the sandbox fail, the machine is not taken down: all that it starts lies in a cgroup, which must not fill up.

    Other users than root have RLIMIT_NPROC for it where no cgroup can be made.
    """
    groups = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    group = (
        Path(f"/sys/fs/cgroup/pids{groups.get('pids', '')}" if "pids" in groups else "/sys/fs/cgroup")
        / f"bombs-{os.getpid()}"
    )
    try:
        group.mkdir()
        (group / "pids.max").write_text(str(MOST + 2))  # the supervisor, and Bubblewrap around it
    except OSError:
        with suppress(OSError):
            group.rmdir()
        if os.getuid() == 0:
            pytest.skip("nothing would hold root's bombs if the sandbox failed")
        yield
        return
    ask, enter = sandbox._ask, ["/bin/sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group)]
    monkeypatch.setattr(sandbox, "_ask", lambda command, *rest: ask([*enter, *command], *rest))
    yield
    n_refused = (group / "pids.events").read_text().split()[1]
    group.rmdir()
    assert n_refused == "0"


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_never_grows(bomb, way, guard):
    result = attempt(BOMBS[bomb], way)
    assert result.status == "processes", result
    assert 1 <= len(set(result.stdout.split())) <= MOST
    assert result.seconds < 5


def test_nothing_starts_while_the_supervisor_is_stopped(way, guard):
    home = tempfile.gettempdir()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(attempt, f"import time\ntime.sleep(1)\n{textwrap.dedent(BOMBS['forks'])}", way)
        while not (program := programs_in(home)):
            time.sleep(0.01)
        supervisor = parent_of(program[0])
        os.kill(supervisor, signal.SIGSTOP)
        try:
            time.sleep(2)
            assert programs_in(home) == program
        finally:
            os.kill(supervisor, signal.SIGCONT)
    assert run.result().status == "processes"


def programs_in(home: str) -> list[int]:
    """Return the process numbers of programs whose folders are in `home`."""
    return [number for number, line in processes_with(home).items() if " -X utf8 " in line]


def parent_of(number: int) -> int:
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2].split()[1])


def test_where_the_kernel_cannot_ask_nothing_of_root_is_run(way, monkeypatch, tmp_path):
    text = sandbox._SUPERVISOR.read_text()
    for root in (True, False):
        old = text.replace("1 << 3 | 1 << 4 if ask", "1 << 30 if ask").replace("os.getuid() == 0", str(root))
        assert old.count("1 << 30") == 1
        (tmp_path / "supervisor.py").write_text(old)
        monkeypatch.setattr(sandbox, "_SUPERVISOR", tmp_path / "supervisor.py")
        if root:
            with pytest.raises(RuntimeError, match="root's processes cannot be bounded"):
                attempt("", way)
        else:
            assert attempt(sandbox._THREAD, way).status == "ok"


def test_ended_threads_and_children_make_room(way):
    program = """
        import multiprocessing, os, subprocess, sys, threading
        for _ in range(20):
            threads = [threading.Thread(target=int) for _ in range(5)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        for _ in range(10):
            children = [os.fork() or os._exit(0) for _ in range(5)]
            for child in children: os.waitpid(child, 0)
        subprocess.run(["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (sleep 0 &); wait; done"], check=True)
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        workers = [context.Process(target=theirs.send, args=(i,)) for i in range(3)]
        for worker in workers: worker.start()
        print(sorted(ours.recv() for _ in workers))
        for worker in workers: worker.join()
        """
    result = attempt(program, way)
    assert (result.status, result.stdout) == ("ok", "[0, 1, 2]\n"), result


def test_input_is_read_and_ends(way):
    result = attempt("import sys\nprint(input(), repr(sys.stdin.read()))", way, stdin="prince of Dänemark\nmore\0")
    assert result.stdout == "prince of Dänemark 'more\\x00'\n"
    assert attempt("input()", way).stderr.endswith("EOFError: EOF when reading a line\n")


def test_a_result_says_it_in_a_sentence(way):
    assert attempt("1 / 0", way).meaning == "it ended with an error: ZeroDivisionError: division by zero"
    assert attempt("", way).meaning == "it ended well"
    assert attempt("1 / 0", way).stderr.splitlines()[1].strip() == 'File "program.py", line 1, in <module>'
    assert run("\n".join(f"print({i})" for i in range(99)), bubblewrap=way).stdout.split() == [
        str(i) for i in range(99)
    ]


def test_useful_programs_run(way):
    program = """
        import asyncio, collections, json, math, random, re, subprocess, sys, tempfile, threading
        from pathlib import Path
        Path("a").mkdir()
        Path("a/b").write_text("text")
        Path("a/b").rename("c")
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        thread = threading.Thread(target=print, args=("thread",))
        thread.start(), thread.join()
        print(asyncio.run(asyncio.sleep(0, "task")), Path("c").read_text())
        print(subprocess.run([sys.executable, "-c", "print('child')"], capture_output=True, text=True).stdout)
        """
    result = attempt(program, way)
    assert (result.status, result.stdout.split()) == ("ok", ["thread", "task", "text", "child"]), result


def test_many_at_once_do_not_mix(way):
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: run(f"print({i})", bubblewrap=way), range(18)))
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(18)]


def test_an_interrupt_ends_it_all(way):
    threading.Timer(0.7, os.kill, [os.getpid(), signal.SIGINT]).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        attempt(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {LONG_LIVED!r}])", way)
    assert time.monotonic() - started < 5
    assert processes_with(MARK) == {}


def test_without_bubblewrap_one_warning_says_what_is_open(forgotten, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.warns(UserWarning, match="there is no program bwrap.*install the package bubblewrap") as warned:
        assert [run("print()").status, run("print()").status] == ["ok", "ok"]
    assert len(warned) == 1
    with pytest.raises(RuntimeError, match="cannot be contained here with Bubblewrap: there is no program bwrap"):
        run("print()", bubblewrap=True)


def test_a_bubblewrap_that_does_not_work_is_not_used(forgotten, monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.warns(UserWarning, match="No permissions to create new namespace"):
        assert contained_by() != "bubblewrap"


def test_nonsense_is_named():
    for wrong in (None, b"print()", 3, ["print()"]):
        with pytest.raises(ValueError, match="program must be str"):
            run(wrong)
        with pytest.raises(ValueError, match="stdin must be str"):
            run("", stdin=wrong)
    with pytest.raises(ValueError, match="1,000,001 characters"):
        run("x" * 1_000_001)
    with pytest.raises(ValueError, match="limits must be Limits"):
        run("", limits=10)
    for field in vars(Limits()):
        for wrong in (None, "1", float("nan"), float("inf"), -1, 10**400, True):
            with pytest.raises(ValueError, match=field):
                Limits(**{field: wrong})
    with pytest.raises(ValueError, match="memory must be at least"):
        Limits(memory=1000)
