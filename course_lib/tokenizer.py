"""Byte-level byte-pair encoding: from text to token ids and back.

A text goes through four steps (GPT-2, Radford et al. 2019, section 2.2; the merging is from arXiv 1508.07909):

1. Special tokens such as `<|im_end|>` are cut out; each is one id, never looked into.
2. The rest is cut into words by a regular expression, so that no token ever spans two words.
3. A word becomes its UTF-8 bytes. Any text has them, so no word is unknown.
4. Neighbouring symbols are merged, always the pair that training learned first, until no known pair is left.

Files write a byte as a printable character: `A` stays `A`, the space becomes `Ġ`, the newline `Ċ`.
"""

import codecs
import json
import re
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import pairwise
from operator import index
from pathlib import Path

import regex

__all__ = ["Tokenizer"]

_WORD = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
"""GPT-2's words: a contraction's ending; letters, digits or signs with the space before them; other white space."""

_DIGIT = regex.compile(r"(\p{N})")
_CACHED_WORDS = 1 << 16  # a few MiB; all of Shakespeare has 36,000 different words


def _byte_alphabet() -> dict[int, int]:
    """Return GPT-2's code point for each byte: its own if that prints visibly, else the next unused one from U+0100."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(0x100, 0x200))
    return {byte: byte if byte in visible else next(spare) for byte in range(256)}


_CHARACTER_OF_BYTE = _byte_alphabet()
_BYTE_OF_CHARACTER = {character: byte for byte, character in _CHARACTER_OF_BYTE.items()}


def _as_hex(error: UnicodeDecodeError) -> tuple[str, int]:
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("course_lib.hex", _as_hex)


class Tokenizer:
    """A byte-level BPE tokenizer, the kind that GPT-2 and SmolLM2 use.

    `vocab` maps each token, written in the byte alphabet, to its id. `merges` are the pairs of tokens in the order in which
    training learned them. `special_tokens` map literal text to ids. With `split_digits`, every digit is a word of its own
    (SmolLM2); without, a run of digits is one word (GPT-2). `chat_template` is a Jinja template of the model's dialogue
    format. `end_tokens` are the tokens that end a turn.

    Ids equal those of the `tokenizers` library. Like it, `encode` leaves out a byte for which the vocabulary has no token:
    SmolLM2 lacks the control characters 4, 6, 19, 20, 22 and 29, and bytes with which only unassigned code points begin.

    Raises ValueError if two tokens share an id, a token is not written in the byte alphabet, a merge makes no token, or an
    end token has no id.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: list[tuple[str, str]],
        special_tokens: dict[str, int],
        *,
        split_digits: bool = False,
        chat_template: str | None = None,
        end_tokens: tuple[str, ...] = (),
    ):
        ids = vocab | special_tokens
        _check(vocab, merges, special_tokens, end_tokens)
        self.vocab, self.merges, self.special_tokens = vocab, merges, special_tokens
        self.split_digits, self.chat_template, self.end_tokens = split_digits, chat_template, end_tokens
        self.end_ids = frozenset(ids[token] for token in end_tokens)
        self._token = {i: token for token, i in ids.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._special = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        self._ids_of_word: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._token)

    def __len__(self) -> int:
        return self.vocab_size

    # ---------------------------------------------------------------- text to ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`. A special token written in the text becomes its id; none is added.

        Raises ValueError if the text has a lone surrogate, which is half a character and has no UTF-8 bytes.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text's character {error.start} is {text[error.start]!a}, a lone surrogate: half of a UTF-16 pair, "
                "which has no UTF-8 bytes; mend the text with "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from None
        ids = []
        for i, part in enumerate(self._special.split(text)):
            if i % 2:  # split() puts what it found between what it left
                ids.append(self.special_tokens[part])
                continue
            for word in self._words(part):
                ids += self._encode_word(word)
        return ids

    def _words(self, text: str) -> Iterable[str]:
        """Cut `text` into words; digits first, so that a digit ends a run of white space just as the text's end does."""
        pieces = _DIGIT.split(text) if self.split_digits else [text]
        return (word for piece in pieces for word in _WORD.findall(piece))

    def _encode_word(self, word: str) -> list[int]:
        ids = self._ids_of_word.get(word)
        if ids is None:
            ids = [self.vocab[symbol] for symbol in self._merge(word)]
            if len(self._ids_of_word) < _CACHED_WORDS:
                self._ids_of_word[word] = ids
        return ids

    def _merge(self, word: str) -> list[str]:
        """Merge the bytes of `word` in O(n log n): a heap holds the known pairs, a linked ring the symbols.

        The plain way, which looks through the whole word for each merge, needs minutes for a word of 100,000 letters.
        """
        written = word.encode().decode("latin-1").translate(_CHARACTER_OF_BYTE)  # latin-1: one character a byte
        symbols = [character for character in written if character in self.vocab]
        end = len(symbols)
        symbols.append("")  # closes the ring, and is part of no pair
        before, after = [end, *range(end)], [*range(1, end + 1), 0]

        heap = [(self._ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in self._ranks]
        heapify(heap)
        while heap:
            rank, left = heappop(heap)  # the pair learned first; of equal ones the leftmost
            right = after[left]
            if self._ranks.get((symbols[left], symbols[right])) != rank:
                continue  # one of the two has merged with its other neighbour since
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            before[after[left]] = left
            for i in (before[left], left):  # the merged symbol makes a new pair on either side
                pair = symbols[i], symbols[after[i]]
                if pair in self._ranks:
                    heappush(heap, (self._ranks[pair], i))
        return [symbol for symbol in symbols if symbol]

    # ---------------------------------------------------------------- ids to text

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, special tokens included. Bytes that are not UTF-8 become U+FFFD.

        Raises ValueError for an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the UTF-8 bytes of `ids`: a token may begin or end within a character. Raises as `decode` does."""
        return b"".join(map(self._bytes, ids))

    def piece(self, id: int) -> str:
        """Return one token's text to show to a reader; bytes that are only part of a character look like `<0xE2>`.

        Raises as `decode` does.
        """
        return self._bytes(id).decode(errors="course_lib.hex")

    def _bytes(self, id: int) -> bytes:
        token = self._token.get(index(id))
        if token is None:
            raise ValueError(
                f"{index(id)} is no id of this tokenizer, which has {self.vocab_size} tokens, 0 to {max(self._token)}; "
                "were the ids made by another tokenizer?"
            )
        if token in self.special_tokens:
            return token.encode()
        return token.translate(_BYTE_OF_CHARACTER).encode("latin-1")

    # ---------------------------------------------------------------- files

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, which `tokenizers.Tokenizer.from_file` reads too, and `tokenizer_config.json`.

        Raises ValueError for more than one end token: `tokenizer_config.json` has room for one.
        """
        if len(self.end_tokens) > 1:
            raise ValueError(f"tokenizer_config.json has room for one end token, but there are {self.end_tokens}")
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        special = sorted(self.special_tokens.items(), key=lambda token_and_id: token_and_id[1])
        pre_tokenizer = (
            {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]} if self.split_digits else _BYTE_LEVEL
        )
        tokenizer = {
            "version": "1.0",
            "added_tokens": [{"id": i, "content": token, **flags} for token, i in special],
            "normalizer": None,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": None,
            "decoder": _BYTE_LEVEL,
            "model": {"type": "BPE", "vocab": self.vocab, "merges": self.merges},
        }
        config = {"chat_template": self.chat_template, "eos_token": next(iter(self.end_tokens), None)}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read what `save`, or `save_pretrained` of `transformers`, wrote into `folder`.

        That is `tokenizer.json` and, where there is one, `tokenizer_config.json` (end token, chat template) and
        `chat_template.jinja`. Raises ValueError that names whatever in `tokenizer.json` would be read differently here.
        """
        path = folder / "tokenizer.json"
        spec = json.loads(path.read_bytes())
        if unsupported := _unsupported(spec):
            raise ValueError(
                f"{path} needs {', '.join(unsupported)}; supported is byte-level BPE as GPT-2 and SmolLM2 have it: words by "
                "GPT-2's regular expression, digits apart or not, nothing normalised or added"
            )
        config_path, template_path = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = json.loads(config_path.read_bytes()) if config_path.is_file() else {}
        end_token = config.get("eos_token")
        if isinstance(end_token, dict):  # the token with its flags
            end_token = end_token["content"]
        merges = spec["model"]["merges"]
        return cls(
            spec["model"]["vocab"],
            [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges],  # older files: "Ġ t"
            {token["content"]: token["id"] for token in spec["added_tokens"]},
            split_digits=_DIGITS in _pre_tokenizers(spec),
            chat_template=template_path.read_text("utf-8") if template_path.is_file() else config.get("chat_template"),
            end_tokens=() if end_token is None else (end_token,),
        )


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _pre_tokenizers(spec: dict) -> list[dict]:
    """Return the steps that cut a text into words, without the ways of writing `_BYTE_LEVEL` that change no id."""
    outer = spec["pre_tokenizer"] or {"type": "Sequence", "pretokenizers": []}
    steps = outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]
    return [_BYTE_LEVEL | step | {"trim_offsets": True} if step["type"] == "ByteLevel" else step for step in steps]


def _unsupported(spec: dict) -> list[str]:
    """Return what the contents of a `tokenizer.json` ask for that `Tokenizer` does not do."""
    model, post_processor = spec["model"], spec.get("post_processor") or {"special_tokens": {}}
    supported = {
        "normalizer": spec.get("normalizer") is None,
        "pre_tokenizer": _pre_tokenizers(spec) in ([_BYTE_LEVEL], [_DIGITS, _BYTE_LEVEL]),
        "post_processor": post_processor.get("type") == "ByteLevel" or post_processor.get("special_tokens") == {},
        "decoder": (spec["decoder"] or {}).get("type") == "ByteLevel",
    }
    found = [f"{name} {json.dumps(spec[name])}" for name, fine in supported.items() if not fine]
    if model.get("type", "BPE") != "BPE":  # the oldest files leave the type out
        return [*found, f"a model of type {model['type']}"]
    options = (
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "byte_fallback",
        "ignore_merges",
    )
    found += [f"the model's {name} {model[name]!r}" for name in options if model.get(name)]
    for token in spec["added_tokens"]:
        found += [f"{flag} of {token['content']!r}" for flag in ("single_word", "lstrip", "rstrip") if token[flag]]
    return found


def _check(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    special_tokens: dict[str, int],
    end_tokens: tuple[str, ...],
) -> None:
    """Raise ValueError for what would make `encode` or `decode` go wrong later."""
    ids = vocab | special_tokens
    token_of_id = {i: token for token, i in ids.items()}
    for token, i in ids.items():
        if token_of_id[i] != token:
            raise ValueError(f"tokens {token!r} and {token_of_id[i]!r} share the id {i}; each needs its own")
    foreign = set("".join(vocab)) - set(map(chr, _BYTE_OF_CHARACTER))
    for token in vocab.keys() - special_tokens.keys() if foreign else ():
        if not foreign.isdisjoint(token):
            raise ValueError(f"token {token!r} is not written in GPT-2's byte alphabet; should it be a special token?")
    for left, right in merges:
        if left + right not in vocab:
            raise ValueError(f"merging {left!r} with {right!r} needs {left + right!r} in the vocabulary")
    for token in end_tokens:
        if token not in ids:
            raise ValueError(f"the end token {token!r} is not in the vocabulary")
