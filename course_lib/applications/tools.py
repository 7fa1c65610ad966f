"""Tools: a model that writes a call, is shown what came of it, and goes on, until it answers.

    tools = Tools(model, tokenizer, [CALCULATOR, search_tool(search)], CALCULATIONS)
    run = tools("What is 347 × 28?")
    run.steps     # (Step(tool="calculator", arguments={"expression": "347 * 28"}, result="9716"),)
    run.answer    # "9716"

A model calls nothing. It writes text; a program reads a call in it, runs the function, and writes the result into the chat as
the next turn. That the text *is* a call does not depend on the model: it writes under a mask (`constraints`) that leaves it

    {"tool": one of the names, "arguments": an object that fits the tool's schema}    or    {"answer": a string}

A function is described as OpenAI's protocol does it: name, description, and a JSON schema of its arguments. But large models
are trained to call functions, and have a role for results in their chat template. That of SmolLM2-Instruct has none, so the
form is this module's own: the system prompt tells it, a result is a turn of the user, `{"result": …}` or `{"error": …}`, and
examples show it, as whole runs that stand in the chat before the question.
"""

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from course_lib.applications.constraints import Constraint
from course_lib.applications.constraints.schemas import schema_pattern
from course_lib.applications.retrieval import Search
from course_lib.architecture import TransformerLM
from course_lib.checks import check, check_fields
from course_lib.inference.generation import Sampling, chat_prompt, generate, tokenless_ids
from course_lib.inference.prefix import PrefixCache
from course_lib.tokenization import Tokenizer

__all__ = ["CALCULATIONS", "CALCULATOR", "Run", "Step", "Tool", "Tools", "calculate", "search_tool"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # as OpenAI has it
_ANSWER = {"type": "string", "maxLength": 200}


# ---------------------------------------------------------------- a tool, and what was done with it


@dataclass(frozen=True)
class Tool:
    """A function that a model may call: `parameters` is a JSON schema of its arguments, which it gets by their names.

    What it returns is shown to the model as text, as JSON if it is no string. What it raises is shown too, as an error. The
    schema is one that `constraints.schemas.schema_pattern` can say. ValueError for a name that is none, or no object's schema.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any]

    def __post_init__(self) -> None:
        check("name", self.name, str)
        check("description", self.description, str)
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"the name of a tool must be 1 to 64 letters, digits, _ or -, not {self.name!r:.100}")
        if not isinstance(self.parameters, Mapping) or self.parameters.get("type") != "object":
            raise ValueError(f"the parameters of {self.name} must be the JSON schema of an object")
        if not callable(self.function):
            raise ValueError(f"the function of {self.name} must be one, not {self.function!r:.100}")


@dataclass(frozen=True)
class Step:
    """A call, and what came of it: the `result` as the model was shown it, or what the error said if it `failed`."""

    tool: str
    arguments: dict[str, Any]
    result: str
    failed: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Run:
    """A question, the calls that were made for it, and the answer.

    `ending` is "answer" if the model answered by itself; "limit" if it was left no more calls, and the answer is what it wrote
    then; "context" if there was no room to go on, and there is no answer; None while the run goes on.
    """

    question: str
    steps: tuple[Step, ...] = ()
    answer: str | None = None
    ending: Literal["answer", "limit", "context", None] = None

    def __post_init__(self) -> None:
        check_fields(self)

    def messages(self) -> list[dict[str, str]]:
        """Return the run as turns of a chat."""
        turns = [("user", self.question)]
        for step in self.steps:
            turns.append(("assistant", _json(tool=step.tool, arguments=step.arguments)))
            turns.append(("user", _json(**{"error" if step.failed else "result": step.result})))
        if self.answer is not None:
            turns.append(("assistant", _json(answer=self.answer)))
        return [{"role": role, "content": content} for role, content in turns]


def _json(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False)


# ---------------------------------------------------------------- the loop


class Tools:
    """Answers questions with `model`, which may call `tools` up to `max_calls` times for each.

    `examples` are runs that stand in the chat before the question: a small model calls nothing without one. A call or an
    answer has at most `max_new_tokens`, and is whole by then; a result at most `max_result` characters, then it is cut.

    ValueError for two tools of one name, a schema that no regular expression can say, an example that calls a tool that is not
    there, or a tokenizer without a chat template.
    """

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Tokenizer,
        tools: Sequence[Tool],
        examples: Sequence[Run] = (),
        *,
        max_calls: int = 4,
        max_new_tokens: int = 120,
        max_result: int = 600,
    ):
        check("max_calls", max_calls)
        check("max_new_tokens", max_new_tokens)
        check("max_result", max_result)
        self.model, self.tokenizer, self.tools = model, tokenizer, {tool.name: tool for tool in tools}
        if len(self.tools) < len(tools):
            raise ValueError("two tools have the same name")
        for step in (step for example in examples for step in example.steps):
            if step.tool not in self.tools:
                raise ValueError(f"an example calls {step.tool!r}, which is not among the tools")
        self.max_calls, self.max_new_tokens, self.max_result = max_calls, max_new_tokens, max_result
        self.examples = tuple(examples)
        answer, calls = schema_pattern(_object(answer=_ANSWER)), [_call_pattern(tool) for tool in tools]
        self._answer_only = Constraint(answer, tokenizer)
        self._constraint = Constraint("|".join([*calls, answer]), tokenizer)
        for constraint in (self._answer_only, self._constraint):
            constraint.rule(max_new_tokens)  # says so if no call or answer fits
        self._opening = [{"role": "system", "content": self._system()}]
        self._opening += [self._escaped(turn) for example in examples for turn in example.messages()]
        self._prefix, self._banned = PrefixCache(model), tokenless_ids(model, tokenizer)
        self._ids(Run(""))  # says so if there is no template

    def __call__(self, question: str, sampling: Sampling = Sampling(), *, seed: int | None = None) -> Run:
        """Return the whole run for `question`; `seed` decides what is drawn. See `runs` for errors."""
        *_, run = self.runs(question, sampling, seed=seed)
        return run

    def runs(self, question: str, sampling: Sampling = Sampling(), *, seed: int | None = None) -> Iterator[Run]:
        """Yield the run as it stands after each call, and at last with its ending.

        No error of a tool ends it; an interrupt does, and what was yielded until then is what was done. ValueError if the
        question is empty, holds special tokens, or does not fit into the context.
        """
        check("question", question, str)
        if not question.strip():
            raise ValueError("the question is empty")
        for token in self.tokenizer.special_tokens:
            if token in question:
                raise ValueError(f"the question holds {token!r}, a sign of the chat's form, not text")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        run, context = Run(question), self.model.config.context_length
        while run.ending is None:
            ids, may_call = self._ids(run), len(run.steps) < self.max_calls
            if len(ids) + self.max_new_tokens > context:
                if not run.steps:
                    raise ValueError(
                        f"the chat has {len(ids)} tokens up to the question, and {self.max_new_tokens} are to be written: "
                        f"the context has {context}"
                    )
                run = replace(run, ending="context")
            else:
                run = self._after(run, self._write(ids, may_call, sampling, generator), may_call)
            yield run

    def _after(self, run: Run, written: dict[str, Any], may_call: bool) -> Run:
        if "answer" in written:
            return replace(run, answer=written["answer"], ending="answer" if may_call else "limit")
        return replace(run, steps=(*run.steps, self._step(**written)))

    def _step(self, tool: str, arguments: dict[str, Any]) -> Step:
        """Run a call. Whatever a tool raises is its result, but for an interrupt, which is no `Exception`."""
        try:
            result, failed = self.tools[tool].function(**arguments), False
            text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        except Exception as error:
            text, failed = str(error) or type(error).__name__, True
        text = text.encode(errors="replace").decode()  # half a character has no bytes that a model could read
        return Step(tool, arguments, text if len(text) <= self.max_result else text[: self.max_result] + " …", failed)

    def _write(
        self, ids: list[int], may_call: bool, sampling: Sampling, generator: torch.Generator | None
    ) -> dict[str, Any]:
        rule = (self._constraint if may_call else self._answer_only).rule(self.max_new_tokens)
        limits = {"stop_ids": self.tokenizer.end_ids, "banned_ids": self._banned, "prefix": self._prefix}
        written = generate(self.model, ids, self.max_new_tokens, sampling, rule=rule, generator=generator, **limits)
        return json.loads(self.tokenizer.decode(list(written)))

    def _system(self) -> str:
        calls = (
            f"\n- {tool.name}: {tool.description} Arguments: {_json(**tool.parameters)}" for tool in self.tools.values()
        )
        if not self.tools:
            return f"Answer the question. Write nothing but JSON: {_json(answer='…')}"
        return (
            f"Answer the question. Write nothing but JSON: {_json(tool='…', arguments={})} to call a tool, whose result you "
            f"are told, or {_json(answer='…')} once you know the answer. Tools:{''.join(calls)}"
        )

    def _ids(self, run: Run) -> list[int]:
        turns = [self._escaped(turn) for turn in run.messages()]
        return self.tokenizer.encode(chat_prompt(self.tokenizer, [*self._opening, *turns]))

    def _escaped(self, turn: dict[str, str]) -> dict[str, str]:
        """Return a turn in which a special token is text: in JSON, its first character can be written by its number.

        What a tool returns is anybody's text, and must not end its turn and begin one of the system's.
        """
        content = turn["content"]
        for token in self.tokenizer.special_tokens:
            content = content.replace(token, f"\\u{ord(token[0]):04x}{token[1:]}")
        return {**turn, "content": content}


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _call_pattern(tool: Tool) -> str:
    try:
        return schema_pattern(_object(tool={"const": tool.name}, arguments=tool.parameters))
    except ValueError as error:
        raise ValueError(f"the parameters of the tool {tool.name}: {error}") from None


# ---------------------------------------------------------------- a calculator

_LONGEST, _LARGEST = 200, 1e100  # characters of an expression; the value of any part of it
_SIGNS = str.maketrans("×·÷−–", "**/--")
_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> str:
    """Return the value of `expression`, written with numbers and + - * / // % ** ( ) as Python writes it.

    Python's parser reads it, and nothing of Python runs: the tree is walked here, and knows these nodes alone. Whole results
    are written without a point, others with up to 12 digits. ValueError that says why, in words for a model, for anything
    else, a division by zero, more than 200 characters, and values beyond 10¹⁰⁰ or that are no real numbers.
    """
    check("expression", expression, str)
    if len(expression) > _LONGEST:  # so that the parser never meets brackets too deep for it
        raise ValueError(f"the expression has more than {_LONGEST} characters")
    if not (plain := expression.translate(_SIGNS).strip()).isascii():
        raise ValueError("the expression must be of ASCII digits and signs")
    try:
        tree = ast.parse(plain, mode="eval")
    except (SyntaxError, ValueError):  # the latter for null bytes
        raise ValueError(f"{expression!r} is no expression") from None
    value = _value(tree.body)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value) if type(value) in (int, float):
            return _bounded(value)
        case ast.UnaryOp(op, inner) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(inner))
        case ast.BinOp(left, ast.Pow(), right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
            try:
                return _bounded(_OPERATORS[type(op)](_value(left), _value(right)))
            except ZeroDivisionError:
                raise ValueError("division by zero") from None
    raise ValueError("only numbers and + - * / // % ** ( ) are allowed")


def _power(base: int | float, exponent: int | float) -> int | float:
    if base == 0 and exponent < 0:
        raise ValueError("division by zero")
    if base and exponent * math.log10(abs(base)) > math.log10(_LARGEST):  # asked first: 9**9**9 fills the memory
        raise ValueError("the number is too large")
    return _bounded(base**exponent)


def _bounded(value: int | float | complex) -> int | float:
    if isinstance(value, complex):
        raise ValueError("this has no real value")
    if not abs(value) <= _LARGEST:  # nor is NaN
        raise ValueError("the number is too large")
    return value


CALCULATOR = Tool(
    "calculator",
    "Computes an expression of numbers and + - * / // % ** ( ).",
    _object(expression={"type": "string", "pattern": r"^[-0-9.+*/%() ]{1,60}$"}),
    calculate,
)
"""`calculate` as a tool; the mask leaves no letter in its expression."""


def _calculated(question: str, expression: str) -> Run:
    step = Step(CALCULATOR.name, {"expression": expression}, calculate(expression))
    return Run(question, (step,), step.result, "answer")


CALCULATIONS = (
    _calculated("What is 12 × 31?", "12 * 31"),
    _calculated("Tom has 41 stamps and buys 17 more. How many stamps has he now?", "41 + 17"),
    _calculated("What is 96 ÷ 8?", "96 / 8"),
    _calculated("A box holds 24 eggs. How many eggs are in 15 boxes?", "24 * 15"),
)
"""Examples of runs with the calculator."""


# ---------------------------------------------------------------- a search


def search_tool(search: Search, n: int = 1, name: str = "search") -> Tool:
    """Return a tool that finds the `n` best passages for a query, with the places where they stand; see `Search.both`."""
    check("n", n)
    return Tool(
        name,
        "Finds the passage that fits a query best.",
        _object(query={"type": "string", "maxLength": 100}),
        partial(_found, search, n),
    )


def _found(search: Search, n: int, query: str) -> str:
    hits = search.both(query, n)
    return "\n\n".join(f"{hit.chunk.text} [{hit.chunk.place}]" for hit in hits) or "nothing is found"
