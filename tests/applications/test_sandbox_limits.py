"""The way of other systems than Linux, asked for by name on this one: limits alone, and what stands around them on a Mac."""

import shutil
import sys
from types import SimpleNamespace

import pytest
from hostile import LONG_LIVED, MARK, TIGHT, processes_with

from course_lib.applications import programs, sandbox
from course_lib.applications.sandbox import Limits, Result, contained_by, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or not shutil.which("ps"), reason="what is left is looked for in /proc"),
    pytest.mark.usefixtures("nothing_is_left"),
]


def attempt(program: str, limits: Limits = TIGHT, stdin: str = "") -> Result:
    return sandbox._run(program, stdin, limits, way="limits")


ENDED = {
    "endless loop": ("while True: pass", "processor"),
    "memory hog": ("block = b'x' * 2_000_000_000", "memory"),
    "memory hogs, none too large alone": (
        "import os, time\nos.fork(), os.fork()\nblock = b'x' * (60 * 2**20)\ntime.sleep(30)",
        "memory",
    ),
    "children": ("import os, time\nfor _ in range(4): os.fork()\ntime.sleep(30)", "processes"),
    "disk filler": ("file = open('x', 'wb')\nfor _ in range(100): file.write(bytes(2**20))", "disk"),
    "disk filler, many files": (
        "import time\nfor i in range(19): open(f'{i}', 'wb').write(bytes(2**19))\ntime.sleep(30)",
        "disk",
    ),
    "output without end": ("while True: print('again and again')", "output"),
    "crash of the interpreter": ("import os\nos.abort()", "crash"),
    "its own end": ("import os, signal\nos.kill(0, signal.SIGKILL)", "killed"),
    "nothing": ("", "ok"),
}


@pytest.mark.parametrize("name", ENDED)
def test_what_takes_too_much_is_ended_and_named(name):
    program, status = ENDED[name]
    result = attempt(program)
    assert result.status == status, result
    assert len(result.stdout) <= TIGHT.output
    assert result.seconds < 5


def test_time_is_over_for_all_that_it_has_started():
    child = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {LONG_LIVED!r}])\n"
    assert attempt(f"{child}time.sleep(30)", Limits(seconds=0.5)).status == "time"
    assert attempt(child).status == "ok"
    assert processes_with(MARK) == {}


def test_code_input_and_output_go_through():
    result = attempt("import sys\nprint(sys.stdin.read())\nsys.exit(3)", stdin="Dänemark\0")
    assert (result.status, result.code, result.stdout) == ("error", 3, "Dänemark\0\n")
    assert attempt("1 / 0").stderr.splitlines()[1].strip() == 'File "program.py", line 1, in <module>'


def test_the_environment_and_the_folder_are_clean(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "canary")
    result = attempt("import os, sys\nprint(os.listdir(), sorted(os.environ), sys.flags.isolated, sys.flags.no_site)")
    assert result.stdout == "[] ['HOME', 'LANG', 'PATH', 'PWD', 'TMPDIR'] 1 1\n"
    assert attempt("import os\nassert os.getcwd() == os.environ['HOME'] == os.environ['TMPDIR']").status == "ok"


GAP = SimpleNamespace(name="gap", prompt="def gap(a, b):\n", tests=["assert gap(3, 10) == 7", "assert gap(10, 3) == 7"])


def test_elsewhere_one_warning_says_what_is_open_and_programs_are_judged(forgotten, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.warns(
        UserWarning, match="limits alone here.*no program /usr/bin/sandbox-exec.*read your files"
    ) as warned:
        assert contained_by() == "limits"
        right, wrong, cheat = programs.solves(
            GAP, ["    return abs(a - b)", "    return b - a", "    import os\n    os._exit(0)"]
        )
    assert len(warned) == 1
    assert [right.status, wrong.status, cheat.status] == ["ok", "error", "error"]
    assert wrong.meaning.endswith("gap(10, 3) should be 7, but is -7")
    assert cheat.meaning.endswith("the program ended before its tests did")
    for bubblewrap in (True, False):
        with pytest.raises(RuntimeError, match="Linux alone"):
            run("print()", bubblewrap=bubblewrap)


def test_sandbox_exec_is_given_its_profile_and_not_used_where_it_refuses_nothing(forgotten, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    script, told = tmp_path / "sandbox-exec", tmp_path / "told"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {told}\nshift 4\nexec "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sandbox, "_SANDBOX_EXEC", script)
    with pytest.warns(UserWarning, match="limits alone here.*does not refuse the network"):
        assert contained_by() == "limits"
    folder = told.read_text().partition("\n")[2].partition("\n")[0].removeprefix("FOLDER=")
    python = f"{folder.removesuffix('home')}program.py"
    assert told.read_text().startswith(f"-D\nFOLDER={folder}\n-p\n(version 1)\n(allow default)\n(deny network*)\n")
    assert told.read_text().endswith(f"-X\nutf8\n{python}\n")

    monkeypatch.setattr(sandbox, "_REFUSED", "")  # as if it refused
    sandbox._trial.cache_clear(), contained_by.cache_clear()
    with pytest.warns(UserWarning, match="under sandbox-exec here.*read all files") as warned:
        assert [run("print(1)").stdout, run("print(2)").stdout] == ["1\n", "2\n"]
    assert (len(warned), contained_by()) == (1, "sandbox-exec")


def test_on_windows_nothing_is_run(forgotten, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    for bubblewrap in (None, True, False):
        with pytest.raises(RuntimeError, match="run the course in WSL"):
            run("print()", bubblewrap=bubblewrap)


def test_on_linux_limits_are_never_enough(forgotten, monkeypatch):
    monkeypatch.setattr(sandbox, "_trial", lambda way: "" if way == "limits" else "it does not work")
    with pytest.raises(RuntimeError, match="nothing here can contain a program, so none is run: it does not work"):
        run("print()")
