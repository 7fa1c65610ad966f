"""Chat prompts against `transformers`' `apply_chat_template`, with templates in the style of each model family."""

from datetime import datetime

import pytest
from chat_templates import TEMPLATES, tokenizer_pair
from transformers import PreTrainedTokenizerFast

from course_lib.inference.generation import chat_prompt
from course_lib.tokenization import Tokenizer

SYSTEM = {"role": "system", "content": " Be <brief> & kind. "}
HELLO = {"role": "user", "content": 'Hi "you" <b>é</b> {{ bos_token }} '}
REPLY = {"role": "assistant", "content": "<think>\nhm</think>\n\nHello!\n"}
CHATS = {
    "one": [HELLO],
    "system": [SYSTEM, HELLO],
    "three": [SYSTEM, HELLO, REPLY, HELLO],
    "ends with a reply": [HELLO, REPLY],
}


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 12)


@pytest.fixture(scope="module", params=TEMPLATES)
def pair(request, tmp_path_factory) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    return tokenizer_pair(request.param, tmp_path_factory.mktemp("chat"))


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_the_prompt_equals_transformers(pair, chat, monkeypatch):
    ours, peer = pair
    monkeypatch.setattr("course_lib.tokenization.chat_template.datetime", Noon)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Noon)
    prompt = chat_prompt(ours, chat)
    assert prompt == peer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = peer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert ours.encode(prompt) == ids


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_what_the_template_says_is_passed_on(family):
    tokenizer = Tokenizer({"a": 0}, [], {}, chat_template=TEMPLATES[family], named_tokens={"bos_token": "<s>"})
    with pytest.raises(ValueError, match=r"refuses these messages: .*onversation roles must alternate"):
        chat_prompt(tokenizer, [HELLO, HELLO])


@pytest.mark.parametrize("family", ["llama3", "mistral", "qwen3", "olmo2"])
def test_a_message_without_content_is_refused_or_written(family):
    """Llama 3 writes None, as its template says; the others cannot."""
    tokenizer = Tokenizer({"a": 0}, [], {}, chat_template=TEMPLATES[family], named_tokens={"bos_token": "<s>"})
    nothing = [{"role": "user", "content": None}]
    if family == "llama3":
        assert "None" in chat_prompt(tokenizer, nothing)
        return
    with pytest.raises(ValueError, match="refuses these messages: "):
        chat_prompt(tokenizer, nothing)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{% for message in messages %}", "error in line 2: Unexpected end of template"),
        ("{{ messages | shout }}", "error in line 1: No filter named 'shout'"),
    ],
)
def test_a_template_that_is_none_is_not_blamed_on_the_messages(template, message):
    with pytest.raises(ValueError, match=message):
        chat_prompt(Tokenizer({"a": 0}, [], {}, chat_template=template), [HELLO])


def test_a_template_cannot_reach_out_of_its_sandbox():
    tokenizer = Tokenizer({"a": 0}, [], {}, chat_template="{{ messages.__class__.__mro__ }}{{ messages.append(1) }}")
    with pytest.raises(ValueError, match="refuses these messages: access to attribute"):
        chat_prompt(tokenizer, [HELLO])


BOMBS = {
    "a product": "{{ 'a' * 10**9 }}",
    "a list": "{{ ([1] * 10**9) | length }}",
    "a power": "{{ 10 ** 10 ** 10 }}",
    "a range": "{{ range(10**9) }}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macros that call themselves": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}"
    ),
    "doubling by +": "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling by ~": "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling by blocks": (
        "{% set n = namespace(s='ab') %}{% for i in range(40) %}"
        "{% set s %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = s %}{% endfor %}"
    ),
    "a method": "{{ 'a'.center(10**9) }}",
    "a filter": "{{ 'a' | center(10**9) }}",
    "replacing": "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    "joining": "{{ (['a' * 10**6] * 10**6) | join }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a width beside": "{{ '%*d' % (10**9, 1) }}",
    "a width in braces": "{{ '{:1000000000}'.format(1) }}",
    "a width in braces beside": "{{ '{:{}}'.format(1, 10**9) }}",
    "indents": "{{ [1] | tojson(indent=10**9) }}",
}


@pytest.mark.parametrize("template", BOMBS.values(), ids=BOMBS)
def test_a_template_cannot_fill_the_memory_or_run_on_for_ever(template):
    with pytest.raises(ValueError, match="the model's chat template refuses these messages"):
        chat_prompt(Tokenizer({"a": 0}, [], {}, chat_template=template), [HELLO])


def test_a_template_may_repeat_count_and_loop_and_what_goes_wrong_in_it_is_said():
    template = "{{ '=' * 9 ~ 7 }}{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}"
    tokenizer = Tokenizer({"a": 0}, [], {}, chat_template=template)
    assert chat_prompt(tokenizer, [HELLO, HELLO]) == "=========71/2False 2/2True "
    long = [{"role": "user", "content": "to be or not to be " * 10_000}] * 8
    assert len(chat_prompt(Tokenizer({"a": 0}, [], {}, chat_template=TEMPLATES["qwen3"]), long)) > 1_500_000
    with pytest.raises(ValueError, match="refuses these messages: division by zero"):
        chat_prompt(Tokenizer({"a": 0}, [], {}, chat_template="{{ 1 / 0 }}"), [HELLO])


def test_no_template_and_no_message_are_named():
    with pytest.raises(ValueError, match="no chat template"):
        chat_prompt(Tokenizer({"a": 0}, [], {}), [HELLO])
    with pytest.raises(ValueError, match="at least one message"):
        chat_prompt(Tokenizer({"a": 0}, [], {}, chat_template="x"), [])
