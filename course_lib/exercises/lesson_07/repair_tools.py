"""Exercise 07.11: a loop of tools that forgets."""

import math
from collections.abc import Callable

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_TOOLS"]

Tools = dict[str, Callable[[str], str]]


class _Model:
    """Calls what it is told to, one after the other, with the first number of the text and the last; then it answers."""

    def __init__(self, calls: tuple[str, ...]):
        self.calls = calls

    def __call__(self, text: str) -> str:
        lines = text.splitlines()
        results = [line.removeprefix("result ") for line in lines if line.startswith("result ")]
        known = [*lines[0].split(), *results] if lines else []
        n_calls = sum(line.startswith("call ") for line in lines[1::2])
        if len(results) >= len(self.calls) or n_calls < len(results) or len(lines) != 2 * len(results) + 1:
            return f"answer {' '.join(known)} of {len(lines)} lines"
        return f"call {self.calls[len(results)]} {known[0]} {known[-1]}"

    def __repr__(self) -> str:
        return f"a model that calls {', '.join(self.calls) or 'nothing'}"


class _Tool:
    """Makes a number of the numbers in its argument; anything else in it is complained of."""

    def __init__(self, function: Callable[[list[int]], int]):
        self.function = function

    def __call__(self, argument: str) -> str:
        words = argument.split()
        return str(self.function(list(map(int, words)))) if all(map(str.isdigit, words)) else f"no numbers: {argument}"

    def __repr__(self) -> str:
        return "a function"


def _plans(generator: torch.Generator) -> list[tuple[_Model, Tools, str, int]]:
    """Return a model, its tools, a question and the limit: no call, one, three, as many as the limit, more, an unknown tool."""
    plans = (
        (("times", "add"), 4),
        ((), 3),
        (("add",), 2),
        (("add", "times", "add"), 3),
        (("add", "add", "times"), 2),
        (("times", "search", "add"), 5),
        (("add", "times", "times", "add"), 1),
    )
    cases = []
    for calls, limit in plans:
        numbers = torch.randint(12, 99, (2,), generator=generator).tolist()
        tools = {"add": _Tool(sum), "times": _Tool(math.prod)}
        cases.append((_Model(calls), tools, " ".join(map(str, numbers)), limit))
    return cases


def _line_by_line(write: _Model, tools: Tools, question: str, limit: int) -> str:
    """Keep the lines in a list, until one is an answer, or one call too many is wanted."""
    lines = [question]
    while True:
        said = write("".join(f"{line}\n" for line in lines)).split(" ", 2)
        if said[0] == "answer":
            return " ".join(said[1:])
        if len(lines) > 2 * limit:
            return "no answer"
        result = tools[said[1]](said[2]) if said[1] in tools else "unknown tool"
        lines += [" ".join(said), f"result {result}"]


def _used(
    text: str = 'text += f"{line}\\nresult {result}\\n"',
    rounds: str = "range(limit + 1)",
    answer: str = 'line.removeprefix("answer ")',
    result: str = 'tools[name](argument) if name in tools else "unknown tool"',
    end: str = '"no answer"',
) -> str:
    """Return the cell of exercise 07.10 with its steps as given."""
    return f'''\
def use_tools(write, tools, question, limit):
    """The model's answer; "no answer" where it wants to call tools more than `limit` times.

    write(text) is the line that it writes behind a text, which is all that it knows: "call NAME
    ARGUMENT", or "answer TEXT". tools: name -> function from string to string.
    """
    text = f"{{question}}\\n"
    for _ in {rounds}:
        line = write(text)
        if line.startswith("answer "):
            return {answer}
        _, name, argument = line.split(" ", 2)
        result = {result}
        {text}
    return {end}
'''


REPAIR_TOOLS = Exercise(
    id="07.11",
    kind="repair",
    title="A loop that forgets",
    section="Tools",
    answer="use_tools",
    results=("answer",),
    inputs=_plans,
    expected=_line_by_line,
    stub=_used('text = f"{question}\\n{line}\\nresult {result}\\n"'),
    solution=_used(),
    why="The model runs nothing, and keeps nothing: it writes a line, the loop runs the tool, and what came out is known to "
    "the model only because it is written into the text. With one call the two versions are the same. From the second call "
    "on, the stub shows only the last result, so that the model does over again what it has already done, until the limit "
    "stops it: without one it would never end. The answer after the last call needs one more round than there are calls. A "
    "name that is no tool gets a result, too; with constrained decoding the model could not have written it.",
    hints=(
        "Print the text at each round, for a question that takes two calls. What does the model know at the third?",
        "The text is all that the model knows. What becomes of the first result when the second one comes?",
        "The text has to grow by two lines with each call. Nothing of it is written over.",
    ),
    mistakes=(
        Mistake(
            _used('text += f"result {result}\\n"'),
            "The results stay now, but the calls are missing: the model sees numbers, and not what they are of.",
        ),
        Mistake(
            _used('text += f"{line}\\n"'),
            "The calls stay now, but their results are missing: what the tool said never comes to the model.",
        ),
        Mistake(
            _used('text += f"{line}\\n{result}\\n"'),
            "The text grows now, but the word `result` is missing before what a tool said.",
        ),
        Mistake(
            _used('text += f"{line}\\nresult {result}"'),
            "The text grows now, but after the result its line does not end, and the next one goes on in it.",
        ),
        Mistake(
            _used('text = f"{line}\\nresult {result}\\n"'),
            "The question is gone from the text as well. The model knows nothing that does not stand there.",
        ),
        Mistake(
            _used('text = f"{line}\\nresult {result}\\n" + text'),
            "The newest lines come first, before the question. A text is read from its beginning: put them behind.",
        ),
        Mistake(
            _used(rounds="range(limit)"),
            "The text grows now. But the model may make `limit` calls, and answer after the last one: that is one round more.",
        ),
        Mistake(
            _used(rounds="range(limit + 2)"),
            "The text grows now. But the model may make one call more than `limit`.",
        ),
        Mistake(
            _used(rounds="range(1000)"),
            "The text grows now. But there is no limit any more: a model that goes on calling would go on for ever.",
        ),
        Mistake(
            _used(answer="line"),
            "The text grows now. But the answer is what stands behind the word `answer`.",
        ),
        Mistake(
            _used(result="tools[name](argument)"),
            "The text grows now. But a model may write any name, and for one that is no tool this stops with an error.",
        ),
        Mistake(
            _used(end="result"),
            "The text grows now. But after one call too many the last result is taken for an answer.",
        ),
    ),
)
