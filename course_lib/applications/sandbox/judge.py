"""A program for the sandbox: tests, and the function that they test in another process, where it can cheat none of them.

A function in the same process as its tests can end the process early with a good exit code, return an object that is equal to
everything, or look into the frames around it for the expected answers. So this process forks first: the child runs the function
and never holds the tests; they are read from stdin afterwards, with a token that is printed when all have passed. Between the
two go plain values, as JSON. What Python lets a child see of its parent, its memory and its open files, the sandbox does not.

`programs.py` appends the call of `main`.
"""

import ast
import builtins
import json
import os
import secrets
import sys
from contextlib import suppress
from typing import TextIO

_SHORT = 300  # characters of a value in a message


def main(solution: str, name: str) -> None:
    """Judge the function `name` that the text `solution` defines."""
    sys.set_int_max_str_digits(0)
    calls, answers = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(0)
        os.open("/dev/null", os.O_RDONLY)
        os.close(calls[1])
        os.close(answers[0])
        with suppress(BrokenPipeError), open(calls[0]) as asked, open(answers[1], "w") as told:
            _serve(solution, name, asked, told)
        os._exit(0)
    os.close(calls[0])
    os.close(answers[1])
    with open(answers[0]) as told, open(calls[1], "w") as asked:
        _judge(name, told, asked)


def _judge(name: str, answers: TextIO, calls: TextIO) -> None:
    task = json.load(sys.stdin)

    def fail(message: str) -> None:
        os.write(2, f"\n{task['token']}{' '.join(message.splitlines())}\n".encode(errors="replace"))
        os._exit(1)

    def receive() -> list:
        line = answers.readline()
        if not line:
            fail("the program ended before its tests did")
        return json.loads(line)

    def tested(*given, **named):
        mark = secrets.token_hex(8)  # so that nothing can be answered before it was asked
        print(json.dumps([mark, _packed(given), _packed(named)]), file=calls, flush=True)
        answered, outcome, value, left = receive()
        if answered != mark:
            fail("the program answered what it was not asked")
        if outcome == "raised":
            raise _error(value, left)
        for before, after in zip(given, _unpacked(left), strict=True):
            _change(before, after)
        return _unpacked(value)

    outcome, *error = receive()
    if outcome != "loaded":
        fail(str(error[0]))
    scope = {name: tested}
    for statement in ast.parse(task["tests"]).body:
        try:
            exec(compile(ast.Module([statement], []), "<tests>", "exec"), scope)
        except BaseException as error:
            fail(_complaint(statement, scope, error))
    os.write(1, f"\n{task['token']}\n".encode())
    os._exit(0)


def _complaint(statement: ast.stmt, scope: dict, error: BaseException) -> str:
    """Return what is wrong, on one line: `gap(10, 3) should be 7, but is -7`."""
    test = getattr(statement, "test", None)
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
        return f"{ast.unparse(statement)} fails with {_said(error)}"
    wanted = f"{ast.unparse(test.left)} should be {ast.unparse(test.comparators[0])}"
    if not isinstance(error, AssertionError):
        return f"{wanted}, but raises {_said(error)}"
    try:
        return f"{wanted}, but is {repr(eval(compile(ast.Expression(test.left), '<tests>', 'eval'), scope))[:_SHORT]}"
    except Exception as error:
        return f"{wanted}, but raises {_said(error)}"


def _said(error: BaseException) -> str:
    return getattr(error, "said", f"{type(error).__name__}: {error}")


def _error(kind: str, said: str) -> Exception:
    """Return the error that the function raised: Python's own of that name if there is one, else a RuntimeError."""
    try:
        error = getattr(builtins, kind)(said)
    except (AttributeError, TypeError):
        error = None
    error = error if isinstance(error, Exception) else RuntimeError(said)
    error.said = f"{kind}: {said}"  # str() of a KeyError is another
    return error


def _change(before: object, after: object) -> None:
    """Let what a call has done to its arguments in place be done here too."""
    if isinstance(before, list):
        before[:] = after
    elif isinstance(before, dict | set):
        before.clear()
        before.update(after)


def _serve(solution: str, name: str, calls: TextIO, answers: TextIO) -> None:
    """Run the text, then answer calls of its function for as long as there are any."""

    def send(*message) -> None:
        sys.stdout.flush()
        print(json.dumps(message), file=answers, flush=True)

    scope = {"__name__": "solution"}
    try:
        exec(compile(solution, "solution.py", "exec"), scope)
    except BaseException as error:
        return send("failed", f"the program does not load: {type(error).__name__}: {error}")
    function = scope.get(name)
    if not callable(function):
        return send("failed", f"there is no function {name}")
    send("loaded")
    for line in calls:
        mark, given, named = map(_unpacked, json.loads(line))
        try:
            value = function(*given, **named)
            send(mark, "returned", _packed(value), _packed(given))
        except Exception as error:
            send(mark, "raised", type(error).__name__, str(error)[:_SHORT])


def _packed(value: object) -> object:
    """Return a plain value as JSON can hold it; what has no name there becomes an object with one key, its kind."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": list(value)}
    if isinstance(value, dict):
        return {"dict": [[_packed(key), _packed(item)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_packed(item) for item in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [_packed(item) for item in value]}
    raise TypeError(f"{type(value).__name__} is no plain value, which alone can be compared")


def _unpacked(value: object) -> object:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    if not isinstance(value, dict):
        return value
    (kind, items), *_ = value.items()
    items = [_unpacked(item) for item in items]
    makers = {"complex": lambda pair: complex(*pair), "bytes": bytes, "dict": dict}
    return (makers | {"tuple": tuple, "set": set, "frozenset": frozenset})[kind](items)
