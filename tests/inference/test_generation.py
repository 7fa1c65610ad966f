"""Drawing tokens, against transformers' own filters; cached against uncached; streaming; the chat template."""

import math
import re
from dataclasses import replace

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from course_lib.architecture import EncoderDecoder, TransformerConfig, TransformerLM
from course_lib.architecture.attention import padding_mask
from course_lib.devices import seed_everything
from course_lib.inference import Sampling, generate, stream_reply, stream_text, translate
from course_lib.inference.generation import tokenless_ids
from course_lib.tokenization import Tokenizer

CONFIG = TransformerConfig(vocab_size=50, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=40, context_length=16)


@pytest.fixture
def small():
    seed_everything(0)
    return TransformerLM(CONFIG).eval()


@pytest.mark.parametrize(
    ("sampling", "warper"),
    [
        (Sampling(temperature=0.7), TemperatureLogitsWarper(0.7)),
        (Sampling(temperature=1.0, top_k=5), TopKLogitsWarper(5)),
        (Sampling(temperature=1.0, top_p=0.8), TopPLogitsWarper(0.8)),
        (Sampling(temperature=1.0, top_p=0.01), TopPLogitsWarper(0.01)),
        (Sampling(temperature=1.0, min_p=0.2), MinPLogitsWarper(0.2)),
    ],
)
def test_filters_equal_transformers(sampling, warper):
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    torch.testing.assert_close(sampling.probabilities(logits), warper(None, logits.clone()).softmax(-1))


def test_filters_combine_in_transformers_order():
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    expected = logits.clone()
    for warper in (TemperatureLogitsWarper(1.5), TopKLogitsWarper(20), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)):
        expected = warper(None, expected)
    sampling = Sampling(temperature=1.5, top_k=20, top_p=0.9, min_p=0.05)
    torch.testing.assert_close(sampling.probabilities(logits), expected.softmax(-1))


def test_top_k_leaves_no_more_than_k_where_several_are_alike():
    kept = Sampling(temperature=1.0, top_k=2).probabilities(torch.tensor([[3.0, 1, 3, 3], [0, 2, 1, 1]]))
    assert (kept > 0).sum(-1).tolist() == [2, 2]
    assert kept[0, 1] == 0 and kept[1, 0] == 0 and kept[1, 1] > 0.7


def test_top_p_of_1_leaves_every_token():
    logits = torch.cat([torch.tensor([30.0]), torch.full((1000,), 0.0)])  # in float32 the first one's probability is 1
    assert (Sampling(temperature=1.0, top_p=1.0).probabilities(logits) > 0).all()


def test_a_set_that_reaches_top_p_exactly_is_whole():
    """½ + ¼ is ¾ in binary too: the next token adds nothing that is needed; what is kept shares 1 as 2 to 1."""
    logits = torch.tensor([0.125, 0.5, 0.125, 0.25]).log2() * math.log(2)
    kept = Sampling(temperature=1.0, top_p=0.75).probabilities(logits)
    torch.testing.assert_close(kept, torch.tensor([0, 2 / 3, 0, 1 / 3]))


@pytest.mark.parametrize("temperature", [1e-40, 1e-300, 1e30])
def test_an_extreme_temperature_gives_a_distribution(temperature):
    logits = torch.tensor([1e4, -1e4, 9999.0])
    expected = torch.tensor([1.0, 0, 0]) if temperature < 1 else torch.full((3,), 1 / 3)
    torch.testing.assert_close(Sampling(temperature).probabilities(logits), expected)
    assert int(Sampling(1e-40).draw(logits)) == 0


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(3)
    for _ in range(4000):
        counts[Sampling(temperature=1.0).draw(logits, generator)] += 1
    torch.testing.assert_close(counts / 4000, logits.softmax(-1), atol=0.03, rtol=0)


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"min_p": 1.5}])
def test_sampling_rejects_nonsense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(Sampling(), **wrong)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_p=0.9)], ids=["greedy", "sampled"])
def test_cached_equals_uncached(small, sampling):
    runs = [
        list(generate(small, [3, 1, 4], 10, sampling, generator=torch.Generator().manual_seed(7), cached=cached))
        for cached in (True, False)
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 10


def test_greedy_follows_the_argmax(small):
    ids = [3, 1, 4]
    for token in generate(small, [3, 1, 4], 5):
        assert token == int(small(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)


def test_generation_ends_at_a_stop_id_and_at_the_context(small):
    tokens = list(generate(small, [3, 1, 4], 100))
    assert len(tokens) == CONFIG.context_length - 3
    stopped = list(generate(small, [3, 1, 4], 100, stop_ids=frozenset({tokens[4]})))
    assert stopped == tokens[: tokens.index(tokens[4])]
    with pytest.raises(ValueError, match="1 to 16 tokens, not 0"):
        list(generate(small, [], 5))
    with pytest.raises(ValueError, match="max_new_tokens"):
        list(generate(small, [1], -1))


def test_banned_ids_are_never_drawn(small):
    first = next(generate(small, [3, 1, 4], 1))
    banned = sorted({*range(0, 50, 2), first})
    for sampling in (Sampling(), Sampling(temperature=5.0)):
        tokens = list(generate(small, [3, 1, 4], 10, sampling, banned_ids=banned))
        assert len(tokens) == 10 and not set(banned).intersection(tokens)
    logits = small(torch.tensor([[3, 1, 4]]))[0, -1]
    allowed = max(set(range(50)) - set(banned), key=lambda token: logits[token].item())
    assert next(generate(small, [3, 1, 4], 1, banned_ids=banned)) == allowed


@pytest.mark.parametrize("cached", [True, False])
def test_a_rule_sees_what_was_written_and_the_logits_after_the_ban(small, cached):
    seen = []

    def rule(written, logits):
        seen.append(list(written))
        assert logits[3] == -torch.inf
        return torch.full_like(logits, -torch.inf).index_fill(0, torch.tensor(10 + len(written)), 0.0)

    assert list(generate(small, [1, 2], 4, banned_ids=[3], rule=rule, cached=cached)) == [10, 11, 12, 13]
    assert seen == [[], [10], [10, 11], [10, 11, 12]]
    stopped = generate(small, [1, 2], 4, stop_ids=frozenset([11]), banned_ids=[3], rule=rule, cached=cached)
    assert list(stopped) == [10]


def test_a_rule_that_changes_nothing_changes_nothing(small):
    draw = {"sampling": Sampling(temperature=1.0), "generator": torch.Generator()}
    texts = []
    for rule in (None, lambda _, logits: logits):
        draw["generator"].manual_seed(0)
        texts.append(list(generate(small, [1, 2], 10, rule=rule, **draw)))
    assert texts[0] == texts[1] and len(texts[0]) == 10


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda written, logits: torch.full_like(logits, -torch.inf if written else 0), "leaves no token .* after 1"),
        (lambda _, logits: logits[:49], r"of the shape \(50,\), not \(49,\)"),
        (lambda *_: None, "not None"),
    ],
)
def test_a_rule_that_leaves_nothing_or_returns_nonsense_is_named(small, rule, message):
    with pytest.raises(ValueError, match=message):
        list(generate(small, [1, 2], 4, rule=rule))


def test_logits_that_are_no_numbers_are_not_blamed_on_the_rule(small):
    with torch.no_grad():
        small.embedding.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="no numbers"):
        list(generate(small, [1], 1, rule=lambda _, logits: logits))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("broken", [[1.0, torch.nan, 2.0], [torch.inf, 0.0, 0.0], [-torch.inf] * 3], ids=str)
def test_one_row_that_is_no_numbers_is_refused_among_others(sampling, broken):
    with pytest.raises(FloatingPointError, match="no numbers"):
        sampling.pick(torch.tensor([[0.0, 1.0, -torch.inf], broken]), torch.tensor([0.5, 0.5]))


def test_a_rule_goes_through_streams(small, monkeypatch):
    letters = Tokenizer({chr(97 + i): i for i in range(25)}, [], {"<e>": 25}, chat_template="{{ messages[0].content }}")
    rule = lambda written, logits: torch.full_like(logits, -torch.inf).index_fill(0, torch.tensor(len(written)), 0.0)  # noqa: E731
    assert "".join(stream_text(small, letters, "hello", 3, rule=rule)) == "abc"
    assert "".join(stream_reply(small, letters, [{"role": "user", "content": "hi"}], 3, rule=rule)) == "abc"


def test_a_text_has_tokens_of_the_tokenizer_only(small):
    """The model has 50 rows and the tokenizer five tokens, one of which is the last row."""
    tokenizer = Tokenizer({"a": 0, "b": 1, "c": 7}, [], {"<s>": 3, "<e>": 49})
    assert tokenless_ids(small, tokenizer) == sorted(set(range(50)) - {0, 1, 3, 7, 49})
    sampling, generator = Sampling(temperature=3.0), torch.Generator().manual_seed(0)
    text = "".join(stream_text(small, tokenizer, "abc", 12, sampling, generator=generator))
    assert re.fullmatch("(a|b|c|<s>|<e>){12}", text)


class Bytes:
    """A tokenizer with one token a byte, whose ids the fake model below plays back."""

    vocab, special_tokens = {chr(i): i for i in range(256)}, {}
    end_ids = frozenset({0})
    chat_template = None

    def encode_prompt(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids) -> bytes:
        return bytes(ids)


def test_streaming_holds_back_incomplete_characters(small, monkeypatch):
    text = "naïve 👩‍🚀 日本"
    monkeypatch.setattr("course_lib.inference.generation.generate", lambda *_args, **_kwargs: iter(text.encode()))
    pieces = list(stream_text(small, Bytes(), "x"))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) == len(text)


@pytest.mark.parametrize(
    ("start", "chat", "begin"),
    [(("<s>",), "{{ bos_token }}a", [1, 0]), (("<s>",), "a", [0]), ((), "{{ bos_token }}a", [1, 0])],
)
def test_a_text_gets_the_start_token_and_a_chat_what_its_template_writes(small, monkeypatch, start, chat, begin):
    tokenizer = Tokenizer(
        {"a": 0}, [], {"<s>": 1}, start_tokens=start, chat_template=chat, named_tokens={"bos_token": "<s>"}
    )
    seen = []
    monkeypatch.setattr(
        "course_lib.inference.generation.generate", lambda _model, ids, *_args, **_kwargs: seen.append(ids) or []
    )
    list(stream_text(small, tokenizer, "a"))
    list(stream_text(small, tokenizer, "<s>a"))
    list(stream_reply(small, tokenizer, [{"role": "user", "content": "Hi"}]))
    assert seen == [[*tokenizer.start_ids, 0], [1, 0], begin]


def test_streaming_shows_broken_bytes_at_the_end(small, monkeypatch):
    monkeypatch.setattr("course_lib.inference.generation.generate", lambda *_args, **_kwargs: iter(b"ok\xe6\x97"))
    assert "".join(stream_text(small, Bytes(), "x")) == "ok\ufffd"


def test_the_real_model_answers(smollm2):
    model, tokenizer = smollm2
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    assert "Paris" in "".join(stream_reply(model, tokenizer, messages, max_new_tokens=20))


def test_a_reply_ends_with_the_turn(smollm2):
    model, tokenizer = smollm2
    messages = [{"role": "user", "content": "Say hello."}]
    reply = "".join(stream_reply(model, tokenizer, messages, max_new_tokens=60))
    assert reply and "<|im_end|>" not in reply


@torch.no_grad()
def test_translation_is_the_greedy_one_of_the_uncached_model():
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=20, d_model=24, n_layers=2, n_heads=4, d_ff=32, context_length=16)
    model = EncoderDecoder(config).eval()
    for parameter in model.parameters():
        parameter.copy_(parameter * 8)  # far enough from uniform that no two tokens are nearly as likely
    source, mask = torch.randint(20, (3, 7)), padding_mask(torch.tensor([7, 4, 6]), 7)
    written = translate(model, source, mask, start_id=1, max_new_tokens=6)
    target = torch.ones(3, 1, dtype=torch.long)
    for _ in range(6):
        target = torch.cat([target, model(source, target, mask)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(written, target[:, 1:])
