"""The still pictures of the widgets draw a token of any kind without a warning, such as that of a glyph which is missing."""

import re

import pytest
import torch
from small_search import SmallSearch
from tiny_server import make_tiny

from course_lib.applications.retrieval import Chunk
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import Sampling
from course_lib.tokenization import Tokenizer, train_bpe
from course_lib.widgets import (
    AttentionExplorer,
    AttentionStepper,
    ChatApp,
    ChatFormatView,
    ConstraintView,
    LogitLens,
    PreferenceLabeller,
    RetrievalExplorer,
    SamplingPlayground,
    TokenizerView,
)

KINDS = {
    "control characters": ["\x00", "\x05", "\x0c", "\r", "\x16", "\x7f", "\x85", "\t\n"],
    "invisible characters": ["\u00a0", "\u200b", "\u2028", "\u202e", "\ufeff", "\u3000", "e\u0301", "\ue000"],
    "East Asian scripts": ["漢", "漢字仮名", "かな", "カナ", "한국어", "，", "「", "𠮷"],
    "other scripts": ["नमस्ते", "ไทย", "שלום", "السلام", "Ж", "ԱԲ", "ܐ", "ሀ"],
    "signs": ["👩‍🚀", "🙂", "√", "𝟘", "½", "\ufffd", "\uffff", "\U0010ffff"],
    "what matplotlib may read as a formula": ["$", "$x$", "$5 $", "_", "\\", "\\frac", "^", "%"],
}
KIND = pytest.mark.parametrize("tokens", KINDS.values(), ids=KINDS)


@KIND
def test_every_picture_can_show_it(tokens, tmp_path):
    tokenizer = Tokenizer({}, [], {token: index for index, token in enumerate(tokens)})
    seed_everything(0)
    sizes = {"vocab_size": len(tokens), "d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 8, "context_length": 32}
    model = TransformerLM(TransformerConfig(**sizes)).eval()
    text = "".join(tokens)
    playground = SamplingPlayground(model, tokenizer, text, Sampling(temperature=1.0))
    playground.generate(8)
    bytewise = train_bpe([], 257)
    larger = TransformerLM(TransformerConfig(**sizes | {"vocab_size": 257})).eval()
    pattern = "|".join(f"({re.escape(token)})+" for token in tokens)
    constraint = ConstraintView(larger, bytewise, "a", pattern, max_new_tokens=20)
    constraint.step()
    chunks = [Chunk(text, 1, 1, f"{text}\nTom"), Chunk("other", 1, 1, "Tom"), Chunk("third", 1, 1, "Ann")]
    explorer = RetrievalExplorer(SmallSearch(chunks), query=text)
    explorer.answer()
    chat = ChatApp(*make_tiny(), max_new_tokens=1)
    chat.say(text)
    widgets = (
        constraint,
        playground,
        chat,
        LogitLens(model, tokenizer, text),
        TokenizerView(tokenizer, text),
        AttentionExplorer(model, tokenizer, text),
        ChatFormatView(tokenizer, [[{"role": "user", "content": text}, {"role": "assistant", "content": text}]]),
        AttentionStepper(*torch.ones(3, 6, 2), tokens=tokens[-6:]),
        PreferenceLabeller([(text, text, "\n".join(tokens))], tmp_path / "choices.jsonl"),
        explorer,
    )
    for widget in widgets:
        assert widget._repr_mimebundle_()[0]["image/png"]
