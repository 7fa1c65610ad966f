"""Chat templates: the small Jinja programs in which a checkpoint says how its dialogues are written.

A template is somebody else's code, so it runs in a sandbox. What it finds there is what `transformers` provides in its
`utils/chat_template_utils.py`, for which templates are written.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import CodeType

from jinja2 import Template, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Scope
from jinja2.parser import Parser

from course_lib.tokenization.sandbox import BoundedSandbox

__all__ = ["render"]


def render(
    template: str, messages: Sequence[Mapping], named_tokens: Mapping[str, str], *, opens_reply: bool = True
) -> str:
    """Return `messages` as `template` writes them, and if it `opens_reply` what stands before the next reply.

    `named_tokens` are the special tokens that the template knows by name, such as {"bos_token": "<s>"}. Raises ValueError
    with what the template says if it refuses the messages or cannot make text of them, if it is no valid template, and if it
    makes more than `sandbox` lets it.
    """
    environment = _environment()
    try:
        program = Template.from_code(environment, _compiled(template), environment.make_globals(None))
    except TemplateSyntaxError as error:
        raise ValueError(f"the model's chat template has an error in line {error.lineno}: {error.message}") from None
    try:
        return program.render(
            messages=messages, add_generation_prompt=opens_reply, tools=None, documents=None, **named_tokens
        )
    except Exception as error:  # the template's own: a content of None is added to a string, a number divided by 0
        raise ValueError(f"the model's chat template refuses these messages: {error}") from None


def _environment() -> BoundedSandbox:
    environment = BoundedSandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment


@lru_cache(maxsize=16)
def _compiled(template: str) -> CodeType:
    """Compile once what thousands of chats are written with; each rendering has an account of its own all the same."""
    return _environment().compile(template)


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}` marks what the assistant wrote, for training; here it changes nothing."""

    tags = frozenset({"generation"})

    def parse(self, parser: Parser) -> Scope:
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes HTML, which a model has not seen."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
