"""Byte-level byte-pair encoding: from text to token ids and back.

A text goes through four steps (GPT-2, Radford et al. 2019, section 2.2; the merging is from arXiv 1508.07909):

1. Special tokens such as `<|im_end|>` are cut out; each is one id, never looked into.
2. The rest is cut into words by a regular expression, so that no token ever spans two words.
3. A word becomes its UTF-8 bytes. Any text has them, so no word is unknown.
4. Neighbouring symbols are merged, always the pair that training learned first, until no known pair is left.

Files write a byte as a printable character: `A` stays `A`, the space becomes `Ġ`, the newline `Ċ`.

What differs between GPT-2, SmolLM2, Llama 3, Qwen 3, OLMo 2 and the later Mistral models is data: the regular expression,
a Unicode normal form, the tokens before a text. Llama 2, the first Mistral and Gemma merge characters instead of bytes: see
`sentencepiece.py`.
"""

import codecs
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from operator import index

import regex

from course_lib.checks import check

__all__ = ["BYTE_ALPHABET", "GPT2_WORDS", "MergeStep", "Tokenizer"]

GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's words: a contraction's ending; letters, digits or signs with the space before them; other white space."""

_DIGIT = regex.compile(r"(\p{N})")
_CACHED_WORDS = 1 << 16  # a few MiB; all of Shakespeare has 36,000 different words
_CACHED_LENGTH = 100  # characters; a longer word hardly comes twice


def _byte_alphabet() -> dict[int, int]:
    """Return GPT-2's code point for each byte: its own if that prints visibly, else the next unused one from U+0100."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(0x100, 0x200))
    return {byte: byte if byte in visible else next(spare) for byte in range(256)}


_CHARACTER_OF_BYTE = _byte_alphabet()
_BYTE_OF_CHARACTER = {character: byte for byte, character in _CHARACTER_OF_BYTE.items()}

BYTE_ALPHABET = frozenset(map(chr, _BYTE_OF_CHARACTER))
"""The 256 characters that byte-level vocabularies are written in."""


def _as_hex(error: UnicodeDecodeError) -> tuple[str, int]:
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("course_lib.hex", _as_hex)


@dataclass(frozen=True)
class MergeStep:
    """The tokens of a word at one moment of its merging: their `ids`, and their `pieces` as `Tokenizer.piece` shows them.

    `ranks` has for each pair of neighbours its place in `Tokenizer.merges`, or None if training never learned it; the smallest
    one merges next. `rank` is that of the pair that was merged last, and `position` is where in `ids` the merged token stands;
    both are None before the first merge. A step with a position and no rank takes the whole word from the vocabulary
    (`ignore_merges`).
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    ranks: tuple[int | None, ...]
    rank: int | None = None
    position: int | None = None


class Tokenizer:
    """A byte-level BPE tokenizer, the kind that GPT-2, SmolLM2, Llama 3 and Qwen 3 use.

    `vocab` maps each token, written in the byte alphabet, to its id. `merges` are the pairs of tokens in the order in which
    training learned them. `special_tokens` map literal text to ids. How a text is cut and merged:

    - `words` is a regular expression for a word; what it does not match is a word too. With `split_digits`, every digit is a
      word of its own first (SmolLM2).
    - `normal_form` is the Unicode normal form that a text is brought into, such as "NFC" (Qwen 3), or None. Special tokens
      are cut out before that, those in `normalised_tokens` after it. (By Python's table; that of `tokenizers` is older and
      lacks some combining marks.)
    - With `ignore_merges`, a word that is in the vocabulary is that token, whatever its merges are (Llama 3).

    What a model needs besides: `start_tokens` stood before every text in its training (Llama 3's `<|begin_of_text|>`), and
    `end_tokens` end a turn. `chat_template` is a Jinja template of its dialogue format, and `named_tokens` are what the
    template knows by name, such as {"bos_token": "<s>"}.

    Ids equal those of the `tokenizers` library. Like it, `encode` leaves out a byte for which the vocabulary has no token:
    SmolLM2 lacks the control characters 4, 6, 19, 20, 22 and 29, and bytes with which only unassigned code points begin.

    Raises ValueError if two tokens share an id, a token is not written in the byte alphabet, a merge makes no token, a start
    or end token has no id, or `words` is no pattern for words.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: list[tuple[str, str]],
        special_tokens: dict[str, int],
        *,
        words: str = GPT2_WORDS,
        split_digits: bool = False,
        normal_form: str | None = None,
        normalised_tokens: Collection[str] = (),
        ignore_merges: bool = False,
        start_tokens: tuple[str, ...] = (),
        end_tokens: tuple[str, ...] = (),
        chat_template: str | None = None,
        named_tokens: Mapping[str, str] | None = None,
    ):
        ids = vocab | special_tokens
        self.vocab, self.merges, self.special_tokens = vocab, merges, special_tokens
        self.words, self.split_digits, self.normal_form = words, split_digits, normal_form
        self.normalised_tokens, self.ignore_merges = frozenset(normalised_tokens), ignore_merges
        self.start_tokens, self.end_tokens = start_tokens, end_tokens
        self.chat_template, self.named_tokens = chat_template, dict(named_tokens or {})
        self._check(ids)
        self.start_ids = tuple(ids[token] for token in start_tokens)
        self.end_ids = frozenset(ids[token] for token in end_tokens)
        self._token = {i: token for token, i in ids.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._word = _word_pattern(words)
        self._special = _any_of(special_tokens.keys() - self.normalised_tokens)
        self._special_after = _any_of(self.normalised_tokens)
        self._ids_of_word: dict[str, tuple[int, ...]] = {}

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
        return list(chain.from_iterable(self.encode_words(text)))

    def encode_prompt(self, text: str) -> list[int]:
        """Return what a model is given to continue `text`: `start_ids`, unless the text writes them out, and its ids.

        Raises as `encode` does.
        """
        ids = self.encode(text)
        start = list(self.start_ids)
        return ids if ids[: len(start)] == start else start + ids

    def encode_words(self, text: str) -> Iterator[tuple[int, ...]]:
        """Yield the ids of `text` word by word: no token spans two words, and a special token is one. Raises as `encode`."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text's character {error.start} is {text[error.start]!a}, a lone surrogate: half of a UTF-16 pair, "
                "which has no UTF-8 bytes; mend the text with "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from None
        for i, raw in enumerate(self._special.split(text)):
            if i % 2:  # split() puts what it found between what it left
                yield (self.special_tokens[raw],)
                continue
            for j, part in enumerate(self._special_after.split(self._normalise(raw))):
                if j % 2:
                    yield (self.special_tokens[part],)
                    continue
                yield from map(self._encode_word, self._words(part, starts_text=i == j == 0))

    def merge_steps(self, word: str) -> list[MergeStep]:
        """Replay how `word` becomes tokens: its bytes first, then its tokens after each merge; the last are those of `encode`.

        Raises ValueError unless `word` is exactly one word, with the space before it if it has one: `" mat"`.
        """
        cut = list(self._cut(self._normalise(word)))
        if len(cut) != 1:
            raise ValueError(f"{word!r} should be one word, but this tokenizer cuts it into {len(cut)}: {cut}")
        symbols = self._symbols(self._write(cut[0]))
        steps = [self._step(symbols)]
        for rank, left in self._merging(symbols):
            steps.append(self._step(symbols, rank, sum(map(bool, symbols[:left]))))
        ids = self._encode_word(cut[0])
        if steps[-1].ids != ids:
            steps.append(self._step([self._token[ids[0]]], None, 0))
        return steps

    def _step(self, symbols: list[str], rank: int | None = None, position: int | None = None) -> MergeStep:
        present = [symbol for symbol in symbols if symbol]
        ids = tuple(self.vocab[symbol] for symbol in present)
        return MergeStep(
            ids, tuple(map(self.piece, ids)), tuple(map(self._ranks.get, pairwise(present))), rank, position
        )

    def _normalise(self, text: str) -> str:
        return text if self.normal_form is None else unicodedata.normalize(self.normal_form, text)

    def _words(self, text: str, starts_text: bool) -> Iterable[str]:
        return self._cut(text)

    def _cut(self, text: str) -> Iterable[str]:
        """Cut `text` into words; digits first, so that a digit ends a run of white space just as the text's end does."""
        pieces = _DIGIT.split(text) if self.split_digits else [text]
        return (word for piece in pieces for word in self._word.findall(piece))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        ids = self._ids_of_word.get(word)
        if ids is None:
            written = self._write(word)
            symbols = [written] if self.ignore_merges and written in self.vocab else self._merge(written)
            ids = tuple([self.vocab[symbol] for symbol in symbols])
            if len(self._ids_of_word) < _CACHED_WORDS and len(word) <= _CACHED_LENGTH:
                self._ids_of_word[word] = ids
        return ids

    def _write(self, word: str) -> str:
        """Write a word as the vocabulary writes it."""
        return word.encode().decode("latin-1").translate(_CHARACTER_OF_BYTE)  # latin-1: one character a byte

    def _symbols(self, written: str) -> list[str]:
        """Return the tokens that merging begins with."""
        return [character for character in written if character in self.vocab]

    def _merge(self, written: str) -> list[str]:
        symbols = self._symbols(written)
        for _ in self._merging(symbols):
            pass
        return [symbol for symbol in symbols if symbol]

    def _merging(self, symbols: list[str]) -> Iterator[tuple[int, int]]:
        """Merge `symbols` in place in O(n log n): a heap holds the known pairs, a linked ring the symbols.

        After each merge, yield its rank and where the merged symbol stands; where its right half stood is then empty.
        The plain way, which looks through the whole word for each merge, needs minutes for a word of 100,000 letters.
        """
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
            yield rank, left

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
        return self._bytes_of(token)

    def _bytes_of(self, token: str) -> bytes:
        if token in self.special_tokens:
            return token.encode()
        return token.translate(_BYTE_OF_CHARACTER).encode("latin-1")

    # ---------------------------------------------------------------- what would go wrong later

    def _check(self, ids: dict[str, int]) -> None:
        check("chat_template", self.chat_template, str | None)
        for name, token in self.named_tokens.items():
            check(name, token, str)
        if "" in self.special_tokens:
            raise ValueError("a special token must not be empty: it would be found everywhere")
        for token, i in ids.items():
            if type(i) is not int or i < 0:
                raise ValueError(f"token {token!r} has the id {i!r}; an id is an int, 0 or more")
        token_of_id = {i: token for token, i in ids.items()}
        for token, i in ids.items():
            if token_of_id[i] != token:
                raise ValueError(f"tokens {token!r} and {token_of_id[i]!r} share the id {i}; each needs its own")
        self._check_spelling()
        for left, right in self.merges:
            if left + right not in self.vocab:
                raise ValueError(f"merging {left!r} with {right!r} needs {left + right!r} in the vocabulary")
        for kind, tokens in (("start", self.start_tokens), ("end", self.end_tokens)):
            for token in tokens:
                if token not in ids:
                    raise ValueError(f"the {kind} token {token!r} is not in the vocabulary")

    def _check_spelling(self) -> None:
        foreign = set("".join(self.vocab)) - BYTE_ALPHABET
        for token in self.vocab.keys() - self.special_tokens.keys() if foreign else ():
            if not foreign.isdisjoint(token):
                raise ValueError(
                    f"token {token!r} is not written in GPT-2's byte alphabet; should it be a special token?"
                )


def _word_pattern(words: str) -> regex.Pattern:
    """Return a pattern that finds what `words` does, and what lies between as words too."""
    try:
        pattern = regex.compile(f"{words}|(?s:(?!{words}).)+")
    except regex.error as error:
        raise ValueError(f"words is no regular expression: {error}, in {words!r}") from None
    if pattern.groups or pattern.match(""):  # a group or nothing would be found in the place of a word
        raise ValueError(f"words must match at least one character, and groups in it not capture, (?:…); got {words!r}")
    return pattern


def _any_of(tokens: Iterable[str]) -> re.Pattern:
    """Return a pattern that finds any of `tokens`, the longest where several begin."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
