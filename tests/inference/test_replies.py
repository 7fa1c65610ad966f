"""Many requests at once: each reply is the one that is written alone, and the forms in which they can be asked."""

import pytest
import torch

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import Sampling, roll_out, write_replies
from course_lib.tokenization import Tokenizer
from course_lib.tokenization.bpe import BYTE_ALPHABET

BYTES = {character: i for i, character in enumerate(sorted(BYTE_ALPHABET))}
TOKENIZER = Tokenizer(
    BYTES,
    [],
    {"<|im_end|>": 256},
    end_tokens=("<|im_end|>",),
    chat_template="{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}",
)
CONFIG = TransformerConfig(vocab_size=260, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=40, context_length=100)
REQUESTS = ["what is it?", "why", "and how does one do that?"]


LETTERS = [BYTES[letter] for letter in "abcdefghijklmnopqrstuvwxyz"]
SAMPLED = Sampling(1.0)


@pytest.fixture(scope="module")
def model():
    seed_everything(0)
    return TransformerLM(CONFIG).eval()


def leaves(*ids: int):
    """Return a rule that allows `ids` alone."""
    return lambda _, logits: torch.full_like(logits, -torch.inf).index_copy(0, torch.tensor(ids), logits[[*ids]])


WORDS = leaves(*LETTERS, 256)


def test_each_reply_is_the_one_that_is_written_alone(model):
    replies = write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED, rules=[WORDS] * 3)
    noise = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    for request, numbers, reply in zip(REQUESTS, noise, replies, strict=True):
        prompt = TOKENIZER.encode(f"user: {request} ")
        written = roll_out(
            model, [prompt], 20, SAMPLED, stop_ids=TOKENIZER.end_ids, banned_ids=[*range(257, 260)], rules=[WORDS],
            noise=numbers[None],
        ).answers[0]  # fmt: skip
        assert reply == TOKENIZER.decode([id for id in written if id != 256])
    assert len({*replies}) == 3


def test_a_seed_and_a_place_draw_the_same_beside_any_others(model):
    replies = write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED, seed=3)
    assert replies[:2] == write_replies(model, TOKENIZER, REQUESTS[:2], 20, SAMPLED, seed=3)
    assert replies != write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED, seed=4)


def test_a_request_may_be_a_chat_and_its_reply_may_be_begun(model):
    chats = [[{"role": "user", "content": request}] for request in REQUESTS]
    plain = write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED)
    assert plain == write_replies(model, TOKENIZER, chats, 20, SAMPLED)
    assert plain != write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED, begun=["yes"] * 3)
    said = write_replies(model, TOKENIZER, ["a b"], 20, SAMPLED, begun=["c"])
    assert said == write_replies(model, TOKENIZER, ["a"], 20, SAMPLED, begun=["b c"])  # the form: "user: a b c"


def test_each_reply_has_its_own_rule(model):
    free = write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED)
    ruled = write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED, rules=[None, leaves(*LETTERS), None])
    assert (ruled[0], ruled[2]) == (free[0], free[2]) and ruled[1].isalpha() and len(ruled[1]) == 20


def test_without_ends_each_reply_has_all_its_tokens(model):
    either = leaves(LETTERS[0], 256)
    ended = write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED, rules=[either] * 3)
    endless = write_replies(model, TOKENIZER, REQUESTS, 20, SAMPLED, rules=[either] * 3, ends=False)
    assert min(map(len, ended)) < 20 and {*map(len, endless)} == {20}


def test_nothing_asked_is_nothing_replied(model):
    assert write_replies(model, TOKENIZER, [], 5, rules=[], begun=[]) == []


def test_as_many_rules_and_beginnings_as_requests_are_wanted(model):
    with pytest.raises(ValueError, match="rules must have one for each of 3 requests, not 1"):
        write_replies(model, TOKENIZER, REQUESTS, 5, rules=[None])
    with pytest.raises(ValueError, match="begun must have one for each"):
        write_replies(model, TOKENIZER, REQUESTS, 5, begun=["a"])
    with pytest.raises(ValueError, match="max_new_tokens"):
        write_replies(model, TOKENIZER, REQUESTS, 0)
