"""Programs that want what is not theirs, each run with Bubblewrap and without: they get nothing, and leave nothing."""

import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hostile import LONG_LIVED, MARK, TIGHT, attempt, processes_with

from course_lib.applications import sandbox
from course_lib.applications.sandbox import Limits

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="programs are contained by Linux alone"),
    pytest.mark.usefixtures("nothing_is_left"),
]


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
    assert processes_with(MARK) == {}


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
    "libc.prctl(22, 2, let_all) and 1/0",  # a filter of its own, as the one that asks before it starts a process
    "libc.syscall(317 if os.uname().machine == 'x86_64' else 277, 1, 0, let_all) and 1/0",
]
LET_ALL = """
import ctypes, os, resource, struct
libc = ctypes.CDLL(None)
step = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
let_all = struct.pack("HP", 1, ctypes.addressof(step))
"""


@pytest.mark.parametrize("harm", RAISED)
def test_it_gets_no_more_than_it_has(harm, way):
    result = attempt(f"{LET_ALL}\n{harm}", way)
    assert result.status in ("error", "forbidden"), result
    assert not OUTSIDE.exists()


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
    assert processes_with(f"{tmp_path}/sandbox-") == {}


def test_without_landlock_it_writes_no_file_at_all(canary):
    before = state(canary)
    for harm in (*HARMS, "open('x', 'w')", "os.mkdir('x')"):
        program = f"import ctypes, os, shutil, subprocess\nplace = {str(canary)!r}\nsecret = place + '/secret'\n"
        program += f"libc = ctypes.CDLL(None)\n{harm}"
        result = sandbox._run(program, "", TIGHT, way="fences", landlock=False)
        assert result.status in ("error", "forbidden"), (harm, result)
    assert state(canary) == before
    assert sandbox._run("print(6 * 7)", "", TIGHT, way="fences", landlock=False).stdout == "42\n"
