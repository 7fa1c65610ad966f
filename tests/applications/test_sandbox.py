"""Programs that mean harm, each run with Bubblewrap and without: contained, with a clear result, and nothing left of it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from course_lib.applications import sandbox
from course_lib.applications.sandbox import Limits, Result, contained_by, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are contained by Linux alone")
TIGHT = Limits(seconds=20, processor=1, memory=128 * 2**20, processes=6, disk=2**20, files=20, output=10_000)
WAYS = {"bubblewrap": True, "fences alone": False}


@pytest.fixture(params=WAYS)
def way(request) -> bool:
    if reason := sandbox._trial(WAYS[request.param]):
        pytest.skip(reason)
    return WAYS[request.param]


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """No process of a sandbox, and no folder, is there after the test that was not there before."""
    home = tmp_path / "temporary"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    yield
    assert list(home.iterdir()) == []
    assert processes_with(str(home)) == []


def processes_with(words: str) -> list[str]:
    """Return the command lines of all processes on this machine that have `words` in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line and str(os.getpid()) != path.parent.name:
            found.append(line)
    return found


def attempt(program: str, way: bool, limits: Limits = TIGHT, **options) -> Result:
    return run(textwrap.dedent(program), limits=limits, bubblewrap=way, **options)


BOMB = "import os\ntake, put = os.pipe()\nos.write(put, bytes(200))"  # 200 forks in all, should nothing stop it
ENDED = {  # programs that take too much, and the word for it
    "many children": (
        "import os, time\nfor i in range(200):\n    if os.fork() == 0:\n        time.sleep(30)\ntime.sleep(30)",
        "processes",
    ),
    "fork bomb": (f"{BOMB}\nwhile os.read(take, 1): os.fork()", "processes"),
    "fork bomb that takes no for an answer": (
        f"{BOMB}\nwhile os.read(take, 1):\n    try: os.fork()\n    except OSError: pass",
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


@pytest.fixture
def canary(tmp_path) -> Path:
    """A folder that the program may neither read nor change."""
    folder = tmp_path / "home of somebody"
    (folder / "inner").mkdir(parents=True)
    (folder / "secret").write_text("canary in a cage")
    (folder / "inner" / "other").write_text("canary")
    (folder / "secret").chmod(0o644)
    folder.chmod(0o777)
    return folder


def state(folder: Path) -> dict:
    paths = sorted([folder, *folder.rglob("*")])
    return {
        path: (path.stat().st_mode, path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in paths
    }


HARMS = [
    "shutil.rmtree(place)",
    "os.unlink(secret)",
    "os.rename(secret, 'mine')",
    "os.rename(secret, place + '/other name')",
    "os.link(secret, 'mine'); open('mine', 'a').write('x')",
    "os.symlink(place, 'way'); os.unlink('way/secret')",
    "os.symlink(secret, 'way'); open('way', 'w').write('x')",
    "open(secret, 'w')",
    "open(secret, 'a').write('x')",
    "open(place + '/new', 'w')",
    "os.mkdir(place + '/new')",
    "os.truncate(secret, 0)",
    "os.chmod(secret, 0)",
    "os.chmod(place, 0)",
    "os.utime(secret, (0, 0))",
    "os.setxattr(secret, 'user.x', b'x')",
    "os.chdir(place); os.unlink('secret')",
    "os.chroot(place); os.unlink('/secret')",
    "subprocess.run(['rm', '-r', place], check=True)",
    "os.unlink(os.path.relpath(secret, os.getcwd()))",
    "open(f'/proc/{os.getppid()}/root' + secret, 'w')",
    "open(f'/proc/self/root' + secret, 'w')",
    "libc.mount(place.encode(), os.getcwd().encode(), None, 4096, None) and 1/0; os.unlink('secret')",
    "libc.unshare(0x10020000) and 1/0; os.unlink(secret)",
]


@pytest.mark.parametrize("harm", HARMS)
def test_files_outside_are_not_touched(harm, way, canary):
    before = state(canary)
    result = attempt(f"import ctypes, os, shutil, subprocess\nplace = {str(canary)!r}\nsecret = place + '/secret'\n"
                     f"libc = ctypes.CDLL(None)\n{harm}", way)  # fmt: skip
    assert state(canary) == before
    assert result.status in ("error", "forbidden"), result


READS = [
    "print(open(secret).read())",
    "print(os.listdir(place))",
    "os.symlink(secret, 'way'); print(open('way').read())",
    "os.link(secret, 'way'); print(open('way').read())",
    "print(subprocess.run(['cat', secret], check=True))",
    "print(open('/proc/self/root' + secret).read())",
    "print(open(f'/proc/{os.getppid()}/root' + secret).read())",
    "print(open(f'/proc/{os.getppid()}/environ').read() or 1/0)",
    "print(open(f'/proc/{os.getppid()}/mem', 'rb').read(1))",
    "print(open(os.path.expanduser('~root/.profile')).read())",
    "print(open('/etc/passwd').read())",
    "print(os.listdir('/home'), os.listdir('/root/.ssh'))",
    "print(os.listdir(os.path.dirname(os.getcwd())).index('request'))",
]


@pytest.mark.parametrize("read", READS)
def test_files_outside_are_not_read(read, way, canary):
    result = attempt(f"import os, subprocess\nplace = {str(canary)!r}\nsecret = place + '/secret'\n{read}", way)
    assert "cage" not in result.stdout + result.stderr.replace(read, "")
    assert result.status in ("error", "forbidden"), result


def test_the_environment_and_the_folder_are_clean(way, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "canary")
    result = attempt(
        "import os, sys\nprint(os.listdir(), sorted(os.environ), sys.path[-1].count('site-packages'))", way
    )
    assert result.stdout == "[] ['HOME', 'LANG', 'PATH', 'PWD', 'TMPDIR'] 0\n"


CALLS = [
    "socket.create_connection(('127.0.0.1', port))",
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', port))",
    "socket.socket(socket.AF_INET6)",
    "socket.socket(socket.AF_UNIX).connect(path)",
    "socket.socket(socket.AF_UNIX).connect(chr(0) + path)",
    "socket.socket(socket.AF_NETLINK)",
    "import urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{port}')",
    "import urllib.request; urllib.request.urlopen(f'http://localhost:{port}')",
    "ctypes.CDLL(None).syscall(425, 1, bytes(200)) >= 0 or socket.socket()",
    "ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0) >= 0 or socket.socket()",
]


@pytest.mark.parametrize("call", CALLS)
def test_nobody_is_called(call, way, tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        port = server.getsockname()[1]
        path = f"{tmp_path}/s"
        datagrams.bind(("127.0.0.1", port))
        local.bind(path)
        local.listen()
        result = attempt(f"import ctypes, socket\nport, path = {port}, {path!r}\n{call}", way)
        assert result.status == "network", result
        for heard, listen in ((server, server.accept), (local, local.accept), (datagrams, lambda: datagrams.recv(1))):
            heard.settimeout(0.05)
            with pytest.raises(TimeoutError):
                listen()


LONG_LIVED = "import time; time.sleep(40)  # long life"
CHILDREN = {
    "a child": f"subprocess.Popen([sys.executable, '-c', {LONG_LIVED!r}])",
    "a child in a session of its own": f"""
        try:
            subprocess.Popen([sys.executable, '-c', {LONG_LIVED!r}], start_new_session=True)
        except PermissionError:
            print("none", flush=True)
        """,
    "a daemon, forked twice": f"""
        if os.fork() == 0:
            for leave in (os.setsid, os.setpgrp):
                try:
                    leave()
                except OSError:
                    pass
            for number in range(3):
                os.close(number)
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, '-c', {LONG_LIVED!r}])
            os._exit(0)
        time.sleep(0.3)
        """,
}


@pytest.mark.parametrize("end", ["", "os._exit(1)", "os.kill(os.getpid(), 9)", "time.sleep(40)"])
@pytest.mark.parametrize("child", CHILDREN)
def test_nothing_outlives_it(child, end, way):
    program = f"import os, subprocess, sys, time\n{textwrap.dedent(CHILDREN[child])}\ntime.sleep(0.1)\n{end}"
    attempt(program, way, Limits(seconds=1.5))
    assert processes_with("# long life") == []


SIGNALS = [
    "os.kill(os.getppid(), 9)",
    "os.killpg(os.getpgrp(), 9)",
    "os.kill(0, 9)",
    "os.kill(-1, 0)",
    "os.kill(victim, 9)",
    "signal.pidfd_send_signal(os.pidfd_open(victim), 9)",
    "libc.tgkill(victim, victim, 9) and 1/0",
    "libc.ptrace(16, victim, 0, 0) and 1/0",
    "resource.prlimit(victim, resource.RLIMIT_CPU, (0, 0))",
    "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    "os.setpriority(os.PRIO_PROCESS, victim, 19)",
    "os.sched_setaffinity(victim, [0])",
    "import fcntl; a, b = os.pipe(); fcntl.fcntl(a, 8, victim)",
    "import fcntl, struct; a, b = os.pipe(); fcntl.fcntl(a, 15, struct.pack('ii', 1, victim))",
    "libc.prctl(4, 0) and 1/0",
]


@pytest.mark.parametrize("harm", SIGNALS)
def test_other_processes_are_left_alone(harm, way):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as victim:
        result = attempt(
            f"import ctypes, os, resource, signal\nlibc = ctypes.CDLL(None)\nvictim = {victim.pid}\n{harm}", way
        )
        assert victim.poll() is None
        victim.kill()
    assert result.status in ("error", "forbidden"), result


OUTSIDE = Path("/tmp/what-no-program-may-write")
RAISED = [
    "resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
    "resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
    "resource.setrlimit(resource.RLIMIT_FSIZE, (2**40, 2**40))",
    "os.setuid(1234)",
    "os.setgroups([0])",
    "os.mknod('disk', 0o60600, os.makedev(8, 0))",
    "os.write(3, b'x')",
    "[os.write(number, b'x') for number in range(3, 64)]",
    "open('/dev/kmsg', 'w').write('x')",
    "open('/dev/shm/x', 'w').write('x')",
    "open('/proc/sys/kernel/hostname', 'w')",
    "open(f'/proc/{os.getppid()}/fd/1', 'w').write('{}')",
    f"open({str(OUTSIDE)!r}, 'w')",
    "open('/x', 'w')",
    "libc.memfd_create(b'x', 0) < 0 and 1/0",
    "libc.shmget(0, 4096, 0o1600) < 0 and 1/0",
    "libc.reboot(0) and 1/0",
    "libc.setns(0, 0) and 1/0",
]


@pytest.mark.parametrize("harm", RAISED)
def test_it_gets_no_more_than_it_has(harm, way):
    result = attempt(f"import ctypes, os, resource\nlibc = ctypes.CDLL(None)\n{harm}", way)
    assert result.status in ("error", "forbidden"), result
    assert not OUTSIDE.exists()


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
    assert processes_with("# long life") == []


def test_it_does_not_outlive_us_when_we_are_killed(way, tmp_path):
    ours = f"""
        import tempfile
        tempfile.tempdir = {str(tmp_path)!r}
        from course_lib.applications.sandbox import run
        print(run("", bubblewrap={way}).status, flush=True)
        run({LONG_LIVED!r}, bubblewrap={way})
        """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(ours)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ok\n"
        time.sleep(0.7)
        assert len(processes_with(f"{tmp_path}/sandbox-")) >= 1
        process.kill()
    time.sleep(0.5)
    assert processes_with(f"{tmp_path}/sandbox-") == []


def test_without_landlock_it_writes_no_file_at_all(canary):
    before = state(canary)
    for harm in (*HARMS, "open('x', 'w')", "os.mkdir('x')"):
        program = f"import ctypes, os, shutil, subprocess\nplace = {str(canary)!r}\nsecret = place + '/secret'\n"
        program += f"libc = ctypes.CDLL(None)\n{harm}"
        result = sandbox._run(program, "", TIGHT, bubblewrap=False, landlock=False)
        assert result.status in ("error", "forbidden"), (harm, result)
    assert state(canary) == before
    assert sandbox._run("print(6 * 7)", "", TIGHT, bubblewrap=False, landlock=False).stdout == "42\n"


@pytest.fixture
def forgotten():
    """What has been tried is forgotten before the test and after it."""
    caches = (sandbox._trial, sandbox._has_landlock, contained_by)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


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


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_run(forgotten, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    for bubblewrap in (None, True, False):
        with pytest.raises(RuntimeError, match="Linux alone"):
            run("print()", bubblewrap=bubblewrap)


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
