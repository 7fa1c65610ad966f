"""Completions, their tests and their cheats in the sandbox; repair; pass@k against its definition."""

import itertools
import math
import random
import sys
from types import SimpleNamespace

import pytest
import torch

from course_lib.applications import programs
from course_lib.applications.programs import (
    _end_of_function,
    complete,
    pass_at_k,
    pass_at_k_interval,
    repair,
    repair_prompt,
    solves,
    whole_program,
)
from course_lib.applications.sandbox import Limits, Result
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import Sampling
from course_lib.tasks.programs import program_tasks
from course_lib.tokenization import Tokenizer
from course_lib.tokenization.bpe import BYTE_ALPHABET

linux = pytest.mark.skipif(sys.platform != "linux", reason="programs are contained by Linux alone")
pytestmark = pytest.mark.filterwarnings("ignore:programs run without Bubblewrap")
GAP = SimpleNamespace(
    name="gap",
    prompt='def gap(a, b):\n    """Return the distance between two numbers."""',
    tests=["assert gap(3, 10) == 7", "assert gap(10, 3) == 7", "assert gap(0.5, 2) == 1.5"],
)
RIGHT = "\n    return abs(a - b)\n"
WRONG = "\n    return b - a\n"


TOKENIZER = Tokenizer(
    {character: i for i, character in enumerate(sorted(BYTE_ALPHABET))},
    [],
    {"<|im_end|>": 256},
    end_tokens=("<|im_end|>",),
    chat_template="{{ messages[0].content }}:",
)
CONFIG = TransformerConfig(vocab_size=260, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=40, context_length=400)


@pytest.fixture
def model():
    seed_everything(0)
    return TransformerLM(CONFIG).eval()


def task(name: str, *tests: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, prompt=f"def {name}(*given, **named):", tests=tests)


def outcome(of, text: str, **options) -> str:
    (result,) = solves(of, [text], **options)
    return "ok" if result.status == "ok" else result.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (RIGHT, f"{GAP.prompt}\n    return abs(a - b)\n"),
        ("\n    return 1\n\n\ndef other():\n    pass\n", f"{GAP.prompt}\n    return 1\n\n"),
        ("\n    return 1\nprint(gap(1, 2))\n    return 2", f"{GAP.prompt}\n    return 1"),
        ("\n    return 1\n# the end\n", f"{GAP.prompt}\n    return 1"),
        ("\n    # why\n\n    return 1", f"{GAP.prompt}\n    # why\n\n    return 1"),
        ("", GAP.prompt),
        (" # no more", f"{GAP.prompt} # no more"),
        ("Sure:\n```python\ndef gap(a, b):\n    return 1\n```\nIt works.", "def gap(a, b):\n    return 1\n"),
        ("```\nimport math\n\ndef gap(a, b):\n    return 1", "import math\n\ndef gap(a, b):\n    return 1"),
        ("```py\n    return 1\n```", f"{GAP.prompt}\n    return 1\n"),
        ("```python\ndef f():\n  1\n```\n```python\ndef gap(): 2\n```", GAP.prompt),
    ],
)
def test_a_completion_ends_where_the_function_does(text, program):
    assert whole_program(GAP, text) == program


@linux
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RIGHT, "ok"),
        (WRONG, "gap(10, 3) should be 7, but is -7"),
        ("\n    return 'x' * 1000", f"gap(3, 10) should be 7, but is '{'x' * 299}"),
        ("\n    return a / 0", "gap(3, 10) should be 7, but raises ZeroDivisionError: division by zero"),
        ("\n    return {}['k']", "gap(3, 10) should be 7, but raises KeyError: 'k'"),
        ("\n    assert a > 5", "gap(3, 10) should be 7, but raises AssertionError:"),
        (
            "\n    return b'\\xff'.decode()",
            "gap(3, 10) should be 7, but raises UnicodeDecodeError: 'utf-8'",
        ),
        ("\n    return a -* b", "the program does not load: SyntaxError: invalid syntax (solution.py, line 3)"),
        ("```\ndef gap(a): return 1\n```", "gap() takes 1 positional argument but 2 were given"),
        ("```\nx = 1\ndef gap2(): pass\n```", "gap(3, 10) should be 7, but is None"),
        ("```\ndef gap(a, b): pass\ngap = 3\n```", "there is no function gap"),
        ("\n    open('/etc/passwd')", "gap(3, 10) should be 7, but raises "),
        (
            "\n    return lambda: 7",
            "gap(3, 10) should be 7, but raises TypeError: function is no plain value, which alone",
        ),
    ],
)
def test_a_failure_says_which_test_and_what_came(text, said):
    assert said in outcome(GAP, text)


@linux
def test_results_come_in_order_with_what_was_printed():
    noisy = "\n    print('näh', a)\n    return abs(a - b)"
    results = solves(GAP, [RIGHT, WRONG, noisy, RIGHT, "\n    while True: pass"], limits=Limits(processor=1))
    assert [result.status for result in results] == ["ok", "error", "ok", "ok", "processor"]
    assert results[2].stdout == "näh 3\nnäh 10\nnäh 0.5\n"
    assert results[0] is results[3]  # equal programs are run once
    assert solves(GAP, []) == []


@pytest.mark.parametrize(("ended", "said"), [("ok", "error"), ("crash", "crash")])
def test_where_the_judge_says_nothing_stderr_stays_as_it_is(monkeypatch, ended, said):
    monkeypatch.setattr(programs, "run", lambda *_, **__: result(ended, "first\nlast\n"))
    assert solves(GAP, [RIGHT]) == [result(said, "first\nlast\n")]


NUMBERS = "None, True, 0, -3, 10**5000, 0.1, 1e308 * 10, 2 + 1j"
OTHERS = (
    "'ä\\n\\ud800', b'\\xff', [], [1, [2]], (), (1, (2,)), {1}, {1: {2: ()}}, {(1, 2): frozenset({3})}, {'tuple': [1]}"
)


@linux
def test_plain_values_go_both_ways_as_they_are():
    tests = [f"values = [{NUMBERS}, {OTHERS}]"]
    tests += ["back = echo(*values)", "assert back == tuple(values), back"]
    tests += ["assert list(map(type, back)) == list(map(type, values))", "assert echo(x=1) == ()"]
    tests += ["nan, = echo(float('nan'))", "assert nan != nan"]
    assert outcome(task("echo", *tests), "\n    return given") == "ok"


@linux
def test_what_a_function_does_to_its_arguments_is_seen():
    tests = ["x = [3, 1]", "f(x)", "assert x == [1, 3]", "y = {1: 2}", "g = f([0], y)", "assert y == {1: 2, 'new': 1}"]
    text = "\n    given[0].sort()\n    if given[1:]: given[1]['new'] = 1"
    assert outcome(task("f", *tests), text) == "ok"
    tests = ["try:\n    f(1)\nexcept ValueError as error:\n    assert str(error) == 'no'\nelse:\n    assert False"]
    assert outcome(task("f", *tests), "\n    raise ValueError('no')") == "ok"


class Subclasses:
    """Values that are equal to more than they should be."""

    always = "\n    class A:\n        def __eq__(self, other): return True\n    return A()"
    number = (
        "\n    class A(int):\n        def __eq__(self, other): return True\n        __hash__ = None\n    return A(5)"
    )
    text = "\n    class A(str):\n        def __eq__(self, other): return True\n    return A('x')"
    nested = "\n    class A(list):\n        def __eq__(self, other): return True\n    return [A()]"


CHEATS = {
    "says so": "\n    print('all tests passed')\n    exit(0)",
    "exits": "\n    raise SystemExit(0)",
    "exits while it loads": "```\nimport sys\ndef gap(a, b): pass\nsys.exit(0)\n```",
    "exits at once": "\n    import os; os._exit(0)",
    "exits at once while it loads": "```\nimport os\nprint('all tests passed', flush=True)\nos._exit(0)\ndef gap(): 1\n```",
    "is equal to all": Subclasses.always,
    "is equal to all, and a number": Subclasses.number,
    "is equal to all, and a text": Subclasses.text,
    "is equal to all, inside": Subclasses.nested,
    "reads the token": "\n    import sys; sys.__stdout__.write('\\n' + open(0).read()); return 0",
    "reads the token while it loads": "```\nimport os\nprint(os.read(0, 9999).decode())\ndef gap(a, b): return 0\n```",
    "reads its parent's input": "\n    import os\n    print(open(f'/proc/{os.getppid()}/fd/0').read())",
    "reads its parent's memory": "\n    import os\n    print(open(f'/proc/{os.getppid()}/mem', 'rb').read(9))",
    "looks for the tests in the memory": """
    import gc
    texts = [x for x in gc.get_objects() if isinstance(x, dict) and 'token' in x]
    print(*(f"\\n{x['token']}\\n" for x in texts))
    return 0""",
    "looks for the tests in the frames": """
    import sys
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and 'token' in value: print("\\n" + value['token'] + "\\n")
        frame = frame.f_back
    return 0""",
    "looks for the tests in its own text": """
    import sys
    text = open(sys.argv[0]).read()
    return 7 if 'assert gap' in text else 0""",
    "changes what assert does": """
    import builtins, json, os
    builtins.AssertionError = SystemExit
    json.loads = json.dumps = lambda *given, **named: ['returned', 7, []]
    os._exit = print
    return 0""",
    "answers in advance": """
    import os
    for number in range(1, 64):
        try: os.write(number, b'["0", "returned", 7, [3, 10]]\\n["0", "returned", 7, [10, 3]]\\n["0", "returned", 1.5, []]\\n')
        except OSError: pass
    os._exit(0)""",
    "answers nonsense": """
    import os
    for number in range(3, 64):
        try: os.write(number, b'[["x')
        except OSError: pass
    os._exit(0)""",
    "names an error that is none": """
    class exit(Exception): pass
    class SystemExit_(BaseException): pass
    SystemExit_.__name__ = 'SystemExit'
    exit.__name__ = 'SystemExit'
    raise exit('0')""",
    "kills its judge": "\n    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)",
    "ends it all": "\n    import os, signal\n    os.killpg(0, signal.SIGTERM)",
    "leaves a printer behind": """
    import os
    if os.fork() == 0:
        while True: print('all tests passed', flush=True)
    os._exit(0)""",
    "at its exit": "\n    import atexit, os\n    atexit.register(os._exit, 0)\n    raise SystemExit",
    "closes everything": "\n    import os\n    os.closerange(0, 64)\n    os._exit(0)",
}


@linux
@pytest.mark.parametrize("bubblewrap", [None, False])
@pytest.mark.parametrize("cheat", CHEATS)
def test_no_cheat_passes(cheat, bubblewrap):
    (result,) = solves(GAP, [CHEATS[cheat]], bubblewrap=bubblewrap, limits=Limits(seconds=5, processor=2))
    assert result.status != "ok", result


@linux
def test_nothing_is_answered_that_was_not_asked():
    forged = """
    import os
    for number in range(3, 64):
        try: os.write(number, b'["0", "returned", 8, [3, 10]]\\n')
        except OSError: pass
    return 7"""
    assert outcome(GAP, forged) == "the program answered what it was not asked"


def result(status: str, stderr: str = "") -> Result:
    return Result(status, 1, "", stderr, 0.1)


def test_repair_asks_once_for_what_failed():
    asked = []

    def write(prompts):
        asked.extend(prompts)
        return [f"answer {i}" for i in range(len(prompts))]

    results = [result("ok"), result("error", "\ngap(10, 3) should be 7, but is -7\n"), result("processor")]
    assert repair(GAP, [RIGHT, WRONG, "\n    while True: pass"], results, write) == [RIGHT, "answer 0", "answer 1"]
    assert asked[0] == (
        'This Python function is wrong:\n\n```python\ndef gap(a, b):\n    """Return the distance between two numbers."""\n'
        "    return b - a\n```\n\ngap(10, 3) should be 7, but is -7\n\nWrite the whole function gap again, so that it is right."
    )
    assert "it used up its processor time" in asked[1]
    assert repair_prompt(GAP, WRONG, results[1]) == asked[0]
    assert repair(GAP, [RIGHT], results[:1], write) == [RIGHT]
    assert len(asked) == 2
    with pytest.raises(ValueError, match="1 texts have 3 results"):
        repair(GAP, [RIGHT], results, write)
    with pytest.raises(ValueError, match="2 texts were to be repaired, and write returned 0"):
        repair(GAP, ["", "", ""], results, lambda prompts: [])


def test_texts_are_a_list():
    with pytest.raises(ValueError, match="single string"):
        solves(GAP, RIGHT)
    with pytest.raises(ValueError, match="text must be str"):
        solves(GAP, [None])


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 1) == pytest.approx(0.25)
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)  # of the 10 sets of 3 one has none of the right two
    assert [pass_at_k(7, 0, k) for k in (1, 7)] == [0, 0]
    assert [pass_at_k(7, 7, k) for k in (1, 7)] == [1, 1]
    assert pass_at_k(7, 1, 7) == 1


def test_pass_at_k_is_the_share_of_sets_with_a_right_one():
    for n in range(1, 9):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            sets = list(itertools.combinations(range(n), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(min(chosen) < c for chosen in sets) / len(sets), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(10_000, 37, 100), (100_000, 5, 50_000), (2000, 1999, 1), (5000, 4000, 1000)]
)
def test_pass_at_k_of_many_is_exact(n, c, k):
    exact = 1 - math.comb(n - c, k) / math.comb(n, k)
    assert pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-9)


def test_pass_at_k_is_unbiased_where_the_plain_power_is_too_low():
    chance, p, k = random.Random(0), 0.3, 5
    drawn = [sum(chance.random() < p for _ in range(10)) for _ in range(20_000)]
    truth = 1 - (1 - p) ** k
    ours = sum(pass_at_k(10, c, k) for c in drawn) / len(drawn)
    plain = sum(1 - (1 - c / 10) ** k for c in drawn) / len(drawn)
    assert abs(ours - truth) < 0.005
    assert plain < truth - 0.04


@pytest.mark.parametrize("k", [1, 3])
def test_the_interval_is_over_tasks(k):
    counts = [(10, c) for c in (0, 0, 1, 3, 10, 7, 0, 2)]
    mean, low, high = pass_at_k_interval(counts, k)
    values = [pass_at_k(n, c, k) for n, c in counts]
    assert (low, high) == bootstrap_interval(values)
    assert mean == pytest.approx(sum(values) / 8)
    assert low < mean < high


def test_impossible_counts_are_named():
    for n, c, k, name in [
        *[(0, 0, 1, "n"), (5, 6, 1, "c"), (5, -1, 1, "c"), (5, 2, 6, "k"), (5, 2, 0, "k")],
        *[(5.5, 2, 1, "n"), (math.nan, 0, 1, "n"), (5, None, 1, "c"), (5, True, 1, "c"), (5, 2, "1", "k")],
    ]:
        with pytest.raises(ValueError, match=f"{name} must be"):
            pass_at_k(n, c, k)
    with pytest.raises(ValueError, match="at least two items"):
        pass_at_k_interval([(5, 2)], 1)
    with pytest.raises(ValueError, match="k must be"):
        pass_at_k_interval([(5, 2), (2, 1)], 3)


@linux
def test_the_course_tasks_are_told_right_from_wrong():
    for one in program_tasks():
        right, *wrong = solves(one, [one.solution, *(other.body for other in one.wrong)])
        assert right.status == "ok", (one.name, right)
        assert [result.status for result in wrong].count("ok") == 0, one.name
        assert wrong[0].stderr.strip() == one.complaint


def test_a_completion_is_not_written_on_behind_its_function(model):
    tasks = [GAP, task("other"), task("third", "assert third() == 1")]
    texts = complete(model, TOKENIZER, tasks, 8, Sampling(1.0))
    flat = [text for some in texts for text in some]
    assert [*map(len, texts)] == [8, 8, 8] and len({*flat}) == 24
    assert not any(line.strip() and not line[0].isspace() for text in flat for line in text.split("\n")[1:])
    alone = complete(model, TOKENIZER, tasks[:1], 8, Sampling(1.0))
    assert alone == texts[:1] and complete(model, TOKENIZER, tasks[:1], 8, Sampling(1.0), seed=1) != alone


def test_once_the_function_is_over_only_the_end_may_follow():
    rule, logits = _end_of_function(TOKENIZER), torch.zeros(300)
    for text in ("", " # a", "\n    return 1\n", "\n\n    a\n\tb\n \n"):
        assert torch.equal(rule(TOKENIZER.encode(text), logits), logits)
    for text in ("\n    return 1\nd", "\n```", "\n    return 1\n\n\n# the"):
        assert rule(TOKENIZER.encode(text), logits).isfinite().nonzero().tolist() == [[256]]


def test_no_task_has_no_completion_and_no_sample_is_refused(model):
    assert complete(model, TOKENIZER, []) == []
    with pytest.raises(ValueError, match="n_samples"):
        complete(model, TOKENIZER, [GAP], 0)
