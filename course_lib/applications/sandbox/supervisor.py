"""Runs in a process of its own, between the course and a program that nobody has read: starts it fenced in, watches, reports.

Started as `python -I -S supervisor.py`, so it imports nothing of the course. It reads one line of JSON, the request, and
writes one, the report. What the program may take is bounded twice: by the kernel for each of its processes (setrlimit(2)), and
by looking, every 20 ms, for all of them together. A bomb of processes outruns any look, so the kernel asks here before it
starts one, or a thread, and starts none without an answer (seccomp_unotify(2)). What the program may do is bounded by two
fences that no process can take down again, and that its children inherit:

- seccomp(2), a filter on system calls: no sockets, no signals to others, no leaving the process group, no namespaces. As
  nothing can leave the group, one signal to the group ends all that the program has started.
- landlock(7), rules on files: read Python and the system's libraries, write in one folder, and nothing else.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress

_LOOK = 0.02  # seconds between two looks
_READ = 1 << 16
OPEN_FILES = 64
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PWD": ""}
_LIBC = ctypes.CDLL(None, use_errno=True)

# Numbers of system calls, (x86-64, ARM64); None where it has no such call. From the kernel's unistd.h.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, and what the kernel calls the machine


def _numbers(table: str) -> dict[str, tuple[int | None, int | None]]:
    rows = (row.split() for row in table.split(","))
    return {name: tuple(None if number == "-" else int(number) for number in numbers) for name, *numbers in rows}


_SOCKETS = _numbers("socket 41 198, io_uring_setup 425 425")  # io_uring opens sockets without asking again
_SIGNALS = _numbers("kill 62 129, tkill 200 130, tgkill 234 131, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240")
_FORBIDDEN = (
    _numbers("setsid 112 157, setpgid 109 154, unshare 272 97, setns 308 268, pidfd_send_signal 424 424")
    | _numbers("ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271")  # into other processes
    | _numbers("process_madvise 440 440, pidfd_getfd 438 438, setpriority 141 140, ioprio_set 251 30")
    | _numbers("sched_setscheduler 144 119, sched_setparam 142 118, sched_setattr 314 274, sched_setaffinity 203 122")
    | _numbers("shmget 29 194, msgget 68 186, semget 64 190, mq_open 240 180")  # outlive their maker
    | _numbers("memfd_create 319 279, memfd_secret 447 447, fallocate 285 47")  # memory and disk that nobody counts
    | _numbers("bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, seccomp 317 277")  # into the kernel
    | _numbers("add_key 248 217, request_key 249 218, keyctl 250 219")
    | _numbers("chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452")  # what Landlock lets be
    | _numbers("chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, file_setattr 469 469")
    | _numbers("setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, setxattrat 463 463")
    | _numbers("removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, removexattrat 466 466")
    | _numbers("utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88")
)
_CHANGES = (  # of files; forbidden too where there is no Landlock, and nothing else guards them
    _numbers("unlink 87 -, unlinkat 263 35, rmdir 84 -, truncate 76 45, creat 85 -, openat2 437 437")
    | _numbers("rename 82 -, renameat 264 38, renameat2 316 276, link 86 -, linkat 265 37, symlink 88 -")
    | _numbers("symlinkat 266 36, mkdir 83 -, mkdirat 258 34, mknod 133 -, mknodat 259 33")
)
_CLONE, _CLONE3, _PRLIMIT, _FCNTL, _IOCTL, _PRCTL = (56, 220), (435, 435), (302, 261), (72, 25), (16, 29), (157, 167)
_OPEN, _OPENAT, _FORK, _VFORK, _SECCOMP = (2, None), (257, 56), (57, None), (58, None), (317, 277)
_NEW_NAMESPACE = 0x7E020000  # the flags CLONE_NEW…
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_RECEIVE, _SEND, _GO_ON = 0xC0502100, 0xC0182101, 1  # from linux/seccomp.h


def _fence_in(*, files_too: bool) -> list[int]:
    """Refuse system calls; return the descriptor on which the kernel asks before the program starts a process or a thread.

    Returns none where the kernel cannot ask, and RLIMIT_NPROC stands in for it. That does not bind root: raises OSError then.
    """
    try:
        return [_refuse_system_calls(files_too=files_too, ask=True)]
    except OSError as error:
        if os.getuid() == 0:
            raise OSError(f"the number of root's processes cannot be bounded by this kernel: {error}") from error
    _refuse_system_calls(files_too=files_too, ask=False)
    return []


def _refuse_system_calls(*, files_too: bool, ask: bool) -> int:
    """Have the kernel refuse system calls to this process and to all that it starts. Raises OSError if it cannot.

    With `ask`, returns the descriptor on which it asks before new processes and threads are started.
    """
    column, machine = _MACHINES[platform.machine()]
    load, equal, at_least, any_bit, done = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF, as in linux/bpf_common.h
    kill, allow = 0x80000000, 0x7FFF0000
    start = 0x7FC00000 if ask else allow

    def refuse(error: int) -> tuple[int, int, int, int]:
        return done, 0, 0, 0x50000 | error

    def argument(index: int) -> tuple[int, int, int, int]:
        return load, 0, 0, 16 + 8 * index  # its lower half

    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), (done, 0, 0, kill)]
    steps += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), refuse(errno.ENOSYS)]  # the x32 twins of all calls

    def rule(numbers: tuple[int, int | None], *then: tuple[int, int, int, int]) -> None:
        if numbers[column] is not None:
            steps.extend([(equal, 0, len(then), numbers[column]), *then])

    def refuse_if(numbers: tuple[int, int | None], index: int, test: int, value: int, otherwise: int = allow) -> None:
        rule(numbers, argument(index), (test, 0, 1, value), refuse(errno.EPERM), (done, 0, 0, otherwise))

    for numbers in _SOCKETS.values():
        rule(numbers, refuse(errno.ENETDOWN))
    for numbers in (_FORBIDDEN | (_CHANGES if files_too else {})).values():
        rule(numbers, refuse(errno.EPERM))
    for numbers in _SIGNALS.values():
        rule(numbers, argument(0), (equal, 0, 1, os.getpid()), (done, 0, 0, allow), refuse(errno.EPERM))
    rule(_PRLIMIT, argument(0), (equal, 0, 1, 0), (done, 0, 0, allow), refuse(errno.EPERM))
    rule(_CLONE3, refuse(errno.ENOSYS))  # its flags cannot be seen; C libraries then take clone, whose flags can
    refuse_if(_CLONE, 0, any_bit, _NEW_NAMESPACE, otherwise=start)
    for numbers in (_FORK, _VFORK):
        rule(numbers, (done, 0, 0, start))
    # PR_SET_DUMPABLE would hide what it writes, PR_SET_SECCOMP ask elsewhere before it starts a process.
    rule(_PRCTL, argument(0), (equal, 1, 0, 4), (equal, 0, 1, 22), refuse(errno.EPERM), (done, 0, 0, allow))
    owners = (
        (argument(1), (equal, 2, 0, a), (equal, 1, 0, b), (done, 0, 0, allow)) for a, b in ((8, 15), (0x8901, 0x8902))
    )
    for numbers, owner in zip((_FCNTL, _IOCTL), owners, strict=True):  # F_SETOWN and its kin: signals by way of a file
        rule(numbers, *owner, refuse(errno.EPERM))
    if files_too:
        refuse_if(_OPEN, 1, any_bit, _WRITES)
        refuse_if(_OPENAT, 2, any_bit, _WRITES)
    steps.append((done, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    # The flags of a listener, and of something that changes nothing here: kernels before 5.7 refuse it, and those before 5.5
    # would not take "go on" for an answer.
    flags = 1 << 3 | 1 << 4 if ask else 0
    return _succeed(_LIBC.syscall(_SECCOMP[column], 1, flags, program), "seccomp")


def landlock_version() -> int:
    """Return the kernel's version of Landlock, 0 if it has none."""
    return max(0, _LIBC.syscall(444, None, ctypes.c_size_t(0), 1))


def _bound_files(readable: list[str], folder: str) -> None:
    """Let this process and all that it starts read what is `readable`, write in `folder`, and use no other file."""
    version = landlock_version()
    all_rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    of_files = (
        0b1100000000000111 & all_rights
    )  # execute, write, read, truncate, ioctl; the others are rights to folders
    read, write_device = 0b1101, 0b110
    attributes = struct.pack("Q", all_rights)
    rules = _succeed(_LIBC.syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock")
    granted = [(path, read) for path in readable] + [(path, write_device) for path in _DEVICES] + [(folder, all_rights)]
    for path, rights in granted:
        try:
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = struct.pack("=Qi", rights if os.path.isdir(path) else rights & of_files, file)
        _succeed(_LIBC.syscall(445, rules, 1, rule, 0), f"landlock for {path}")
        os.close(file)
    _succeed(_LIBC.syscall(446, rules, 0), "landlock")
    os.close(rules)


def _succeed(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _bound_resources(request: dict) -> None:
    limits = {
        resource.RLIMIT_CPU: int(request["processor"]) + 2,  # the look comes first, and has a name for it
        resource.RLIMIT_AS: request["memory"],
        resource.RLIMIT_FSIZE: request["disk"],
        resource.RLIMIT_NPROC: request["processes"] + 2 + (0 if request["mounts"] else _tasks_of_user() + 64),
        resource.RLIMIT_NOFILE: OPEN_FILES,
        **dict.fromkeys((resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE), 0),
    }
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _tasks_of_user() -> int:
    """Return how many processes and threads this user runs already: the kernel counts them all against the limit."""
    n_tasks = 0
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{entry}").st_uid == os.getuid():
                n_tasks += len(os.listdir(f"/proc/{entry}/task"))
        except OSError:
            continue
    return n_tasks


def _become(request: dict, streams: list[int], supervisor: socket.socket) -> None:
    """Become the program, in the child: bound what it may take and do, and hand over.

    Sends the supervisor a space with the descriptor to listen on, and then what fails, if anything does.
    """
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.setpgid(0, 0)
        _LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # should the supervisor die
        os.chdir(request["folder"])
        _bound_resources(request)
        for capability in range(64):  # root's powers; another user has none to drop
            _LIBC.prctl(24, capability, 0, 0, 0)
        _succeed(_LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
        if request["landlock"]:
            _bound_files([*_SYSTEM, request["prefix"], request["program"]], request["folder"])
        listener = _fence_in(files_too=not (request["landlock"] or request["mounts"]))
        socket.send_fds(supervisor, [b" "], listener)
        homes = dict.fromkeys(("HOME", "TMPDIR", "PWD"), request["folder"])
        command = [request["python"], "-I", "-S", "-B", "-X", "utf8", request["program"]]
        os.execve(command[0], command, ENVIRONMENT | homes)
    except BaseException as error:
        supervisor.sendall(f"{type(error).__name__}: {error}".encode())
    os._exit(127)


def _taken(group: int) -> dict[str, float]:
    """Return what the processes of a group take together."""
    taken = dict.fromkeys(("processes", "processor", "memory", "written"), 0.0)
    taken["processor"] = sum(os.times()[2:4])  # of those that this one has waited for, all orphans among them
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(entry)) != group:
                continue
            with open(f"/proc/{entry}/stat", "rb") as file:
                state, parent, _, *fields = file.read().rpartition(b") ")[2].split()
            taken["processor"] += (
                sum(map(int, fields[8:12])) / tick
            )  # its own and that of children that it has waited for
            ours_to_bury = state == b"Z" and int(parent) == os.getpid()  # done at the next turn
            taken["processes"] += int(fields[14]) - ours_to_bury  # threads count too, and the dead
            if state == b"Z":
                continue
            taken["memory"] += int(fields[18]) * page
            with open(f"/proc/{entry}/io", "rb") as file:
                taken["written"] += int(file.read().split()[3])
        except OSError:  # it has ended meanwhile
            continue
    return taken


def _lies_in(folder: str, most_files: int) -> tuple[int, int]:
    """Return the bytes and the number of files in a folder; what cannot be opened counts as too many."""
    n_bytes = n_files = 0
    folders = [folder]
    while folders and n_files <= most_files:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    n_files += 1
                    if n_files > most_files:
                        break
                    n_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError:  # closed to its own maker, or deeper than a path can say
            n_files += most_files + 1
    return n_bytes, n_files


def _broken(taken: dict[str, float], request: dict) -> str | None:
    """Return the name of the limit that a program has broken that has taken so much, None if it keeps within all."""
    for name in ("processes", "memory", "processor"):
        if taken[name] > request[name]:
            return name
    n_bytes, n_files = _lies_in(request["folder"], request["files"])
    much = n_bytes > request["disk"] or taken["written"] > 4 * request["disk"] + 2 * request["output"]
    return "disk" if much or n_files > request["files"] else None


def _let_start(listener: int, program: int, most: int) -> bool:
    """Hear a process that asks to start another, or a thread; say "go on" if that makes no more than `most`, else nothing.

    What is under way after the last answer is not seen yet: all who ask at once may be let, so less than twice `most` can be.
    """
    question = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECEIVE, question)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINTR):
            raise
        return True  # who asked is gone, or asks again
    until = time.monotonic() + _LOOK  # threads that have just been joined are seen a moment longer
    while _taken(program)["processes"] >= most:
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    with suppress(FileNotFoundError):  # who asked is gone
        fcntl.ioctl(listener, _SEND, struct.pack("QqiI", *struct.unpack_from("Q", question), 0, 0, _GO_ON))
    return True


def watch(
    program: int,
    streams: tuple[int, int],
    listener: list[int],
    request: dict,
    look: Callable[[int], dict[str, float]] = _taken,
) -> dict:
    """Collect what the program writes until it ends or breaks a limit, and return the report.

    `look` returns what the processes of a group take together.
    """
    started = time.monotonic()
    written = {stream: bytearray() for stream in streams}
    waiting = select.poll()
    for number in (0, *streams, *listener):
        waiting.register(number, select.POLLIN)
    reading, status, code, look_at = set(streams), None, None, started + _LOOK
    while status is None and code is None:
        wait = max(0.0, min(look_at, started + request["seconds"]) - time.monotonic()) if reading else 0.001
        asked = False
        for stream, event in waiting.poll(1000 * wait):
            if stream == 0:  # the course is gone, or wants no result any more
                end_all(program)
                os._exit(0)
            if stream in listener:
                asked = event == select.POLLIN  # else nobody is left who could ask
                continue
            chunk = os.read(stream, _READ)
            written[stream] += chunk
            if not chunk:
                reading.discard(stream)
                waiting.unregister(stream)
            if len(written[stream]) > request["output"]:
                status = _broken(look(program), request) or "output"
        code = _exit_code(program)
        if code is None and time.monotonic() > started + request["seconds"]:
            status = "time"
        if asked and status is None and code is None and not _let_start(*listener, program, request["processes"]):
            status = "processes"
        if status is None and code is None and time.monotonic() >= look_at:
            looked = time.monotonic()
            status = _broken(look(program), request)
            look_at = time.monotonic() + max(_LOOK, 10 * (time.monotonic() - looked))  # at most a tenth of a processor
    seconds = time.monotonic() - started
    for stream in reading:
        while select.select([stream], [], [], 0)[0] and len(written[stream]) <= request["output"]:
            chunk = os.read(stream, _READ)
            if not chunk:
                break
            written[stream] += chunk
    status = status or _broken(look(program), request)  # since the last look
    if max(map(len, written.values())) > request["output"]:
        status = status or "output"
    texts = [bytes(text[: request["output"]]).decode("latin-1") for text in written.values()]
    return {"status": status, "code": code, "stdout": texts[0], "stderr": texts[1], "seconds": seconds}


def _exit_code(program: int) -> int | None:
    """Return how the program has ended, None if it runs; lay to rest the orphans that have ended too."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if process == program:
            return os.waitstatus_to_exitcode(status)
        if process == 0:
            return None


def end_all(group: int) -> None:
    """End all processes of a group, and wait until they are gone: this one is left all orphans, and has no other children."""
    with suppress(ProcessLookupError, PermissionError):  # what macOS says of a group that has ended
        os.killpg(group, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main() -> None:
    """Read the request, run the program, write the report, end everything."""
    request = json.loads(sys.stdin.buffer.readline())
    os.umask(0o077)
    _LIBC.prctl(36, 1, 0, 0, 0)  # orphans among its descendants become its children
    _LIBC.prctl(4, 0, 0, 0, 0)  # its open files and its memory are closed to processes of the same user
    request["landlock"] = request["landlock"] and landlock_version() > 0
    given = os.memfd_create("stdin")
    with open(os.dup(given), "wb") as file:
        file.write(request["stdin"].encode("latin-1"))
    os.lseek(given, 0, os.SEEK_SET)
    output, error, (ours, theirs) = os.pipe(), os.pipe(), socket.socketpair()
    program = os.fork()
    if program == 0:
        _become(request, [given, output[1], error[1]], theirs)
    theirs.close()
    for number in (given, output[1], error[1]):
        os.close(number)
    told, listener, _, _ = socket.recv_fds(ours, _READ, 1)
    failed = (told + ours.recv(_READ)).decode().strip()
    report = {"failed": failed} if failed else watch(program, (output[0], error[0]), listener, request)
    end_all(program)
    with open(1, "w", closefd=False) as file:
        json.dump(report | {"landlock": request["landlock"]}, file)


if __name__ == "__main__":
    main()
