"""TokenizerView: a text as its tokens, and the merges of one of its words replayed step by step."""

from base64 import b64encode
from dataclasses import asdict

from traitlets import Dict, Int, TraitError, Unicode, observe, validate

from course_lib.tokenization import Tokenizer
from course_lib.tokenization.sentencepiece import SentencePieceTokenizer
from course_lib.widgets.shared.base import encode_text, module, style_sheet, token_of
from course_lib.widgets.shared.live import LiveWidget
from course_lib.widgets.shared.numbers import short
from course_lib.widgets.tokenizer_view.picture import tokens_picture

__all__ = ["MAX_SYMBOLS", "MAX_TOKENS", "TokenizerView"]

MAX_TOKENS = 1000
MAX_SYMBOLS = 64  # bytes or characters of a word whose merges are shown


class TokenizerView(LiveWidget):
    """Show `text` as the tokens of `tokenizer`, and how merging makes one of its words, from bytes to tokens.

    The learner types another text, chooses a word and steps through its merges; so does setting `text`, `word` (counted from
    0; at first the one with the most to merge) and `step` (the merges done so far) from Python, where all three can be read
    back. A text must have 1 to 1000 tokens, else ValueError.

        view = TokenizerView(tokenizer, "The tokenizer reads unbelievably well.")
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    text = Unicode().tag(sync=True)
    word = Int(0).tag(sync=True)
    step = Int(0).tag(sync=True)
    result = Dict().tag(sync=True)
    replay = Dict().tag(sync=True)

    def __init__(self, tokenizer: Tokenizer, text: str):
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.special_tokens.values())
        self._symbols = "characters" if isinstance(tokenizer, SentencePieceTokenizer) else "bytes"
        encode_text(tokenizer, text, MAX_TOKENS)
        super().__init__(text=text)

    def __repr__(self) -> str:
        sizes = ", ".join(_counted(n, unit) for unit, n in self.result["sizes"].items())
        per_token = short(self.result["sizes"]["byte"] / len(self.result["tokens"]), 2)
        line = f"TokenizerView: {sizes}, {per_token} bytes per token"
        if not self.replay["steps"]:
            return line
        merges, tokens = len(self.replay["steps"]) - 1, len(self.replay["steps"][-1]["ids"])
        return f"{line}; {self.replay['word']!r} is {_counted(tokens, 'token')} after {_counted(merges, 'merge')}"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = tokens_picture(self.result, self.replay, self.word)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    @validate("text")
    def _valid_text(self, proposal) -> str:
        encode_text(self._tokenizer, proposal["value"], MAX_TOKENS)
        return proposal["value"]

    @validate("word")
    def _valid_word(self, proposal) -> int:
        return _within("word", proposal["value"], len(self.result["words"]) - 1, "of this text")

    @validate("step")
    def _valid_step(self, proposal) -> int:
        return _within("step", proposal["value"], max(len(self.replay["steps"]) - 1, 0), "of this word")

    @observe("text")
    def _show_text(self, _change: dict) -> None:
        words = [ids for ids in self._tokenizer.encode_words(self.text) if ids]
        ids = [index for word in words for index in word]
        with self.hold_sync():
            self.result = {
                "tokens": [token_of(self._tokenizer, index) | {"special": index in self._special} for index in ids],
                "words": [len(word) for word in words],  # in tokens
                "sizes": {"token": len(ids), "character": len(self.text), "byte": len(self.text.encode())},
                "start": [token_of(self._tokenizer, index) for index in self._tokenizer.start_ids],
            }
            self._words = words
            self.word = max(range(len(words)), key=lambda i: self._to_merge(words[i]))
            self._show_word({})

    @observe("word")
    def _show_word(self, _change: dict) -> None:
        with self.hold_sync():
            self.replay = self._replay(self._words[self.word])
            self.step = 0

    def _edit(self, text: str) -> None:
        """Show the text as the learner types it, and stay with the word that they chose."""
        chosen = self.word
        with self.hold_sync():
            self.text = text
            self.word = min(chosen, len(self._words) - 1)

    def _text_of(self, word: tuple[int, ...]) -> str:
        return self._tokenizer.decode_bytes(word).decode(errors="replace")

    def _to_merge(self, word: tuple[int, ...]) -> int:
        """Return of how many symbols the word is made, or 0 if its merges are not shown."""
        text = self._text_of(word)
        n_symbols = len(text) if self._symbols == "characters" else len(text.encode())
        return 0 if word[0] in self._special or n_symbols > MAX_SYMBOLS else n_symbols

    def _replay(self, word: tuple[int, ...]) -> dict:
        """Return the word, what its merging begins with, and its steps: none if it is special or too long."""
        text = self._text_of(word)
        steps = self._tokenizer.merge_steps(text) if self._to_merge(word) else []
        ids = {index for step in steps for index in step.ids}
        return {
            "word": text,
            "symbols": self._symbols,
            "special": word[0] in self._special,
            "merges": len(self._tokenizer.merges),
            "steps": [{name: value for name, value in asdict(step).items() if name != "pieces"} for step in steps],
            "vocabulary": {str(index): token_of(self._tokenizer, index) for index in sorted(ids)},
        }

    def _do(self, message: dict) -> None:
        """Do what the browser asks for: show another text, or another word."""
        if message["type"] == "text":
            self._edit(message["text"])
        else:
            self.word = message["word"]


def _within(name: str, value: int, last: int, place: str) -> int:
    if not 0 <= value <= last:
        raise TraitError(f"{name} must be 0 … {last} {place}, not {value}")
    return value


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"
