"""Chat prompts against `transformers`' `apply_chat_template`, with templates in the style of each model family."""

from datetime import datetime

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from course_lib.inference.generation import chat_prompt
from course_lib.tokenization import Tokenizer, load_tokenizer

LLAMA3 = """\
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS]" + (tools | tojson) }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

QWEN3 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.last_query_index = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- if message.tool_calls %}
            {{- message.tool_calls | tojson(indent=2) }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

OLMO2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}{% if not loop.last %}"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)

GEMMA3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""

FOR_TRAINING = """\
{% for message in messages %}
    {% set who = message.role | upper %}
    {% if message.role == "system" %}
        {% continue %}
    {% endif %}
    {{ who }}: {% if message.role == "assistant" %}{% generation %}{% set who = "x" %}{{ message.content }}{{ eos_token }}
    {% endgeneration %}{{ who }}{% else %}{{ message.content | tojson }} {{ documents }} {{ sep_token }}{% endif %}

{% endfor %}
"""

TEMPLATES = {
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "qwen3": QWEN3,
    "olmo2": OLMO2,
    "gemma3": GEMMA3,
    "for training": FOR_TRAINING,
}
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
    """A tokenizer with one token a byte and a family's special tokens and template, and its peer, which saved it."""
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ("<s>", "</s>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<start_of_turn>")
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    peer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    peer.chat_template = TEMPLATES[request.param]
    folder = tmp_path_factory.mktemp("chat")
    peer.save_pretrained(folder)
    return load_tokenizer(folder), peer


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
