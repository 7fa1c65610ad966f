"""Training of byte-level byte-pair encoding: a tokenizer's tokens are learned from text.

Training starts from the 256 bytes and repeats one step (arXiv 1508.07909, section 3.2): the pair of neighbours that
occurs most often becomes a new token, wherever it stands. Counting all pairs anew for each of 4,000 merges takes half
an hour for Shakespeare. Three observations make it two seconds:

1. No token spans two words. So a word that occurs a thousand times is kept once, and counts a thousandfold.
2. A merge changes only the words that hold its pair. So each pair remembers where it occurs.
3. A pair comes into being when the younger of its two tokens does, in the whole text at once; after that it only gets
   rarer, as neighbours merge away. So a heap of counts need not be kept up to date: a count in it may be too large, but
   never too small.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise

from course_lib.checks import check, check_texts
from course_lib.tokenization.bpe import BYTE_ALPHABET, GPT2_WORDS, Tokenizer

__all__ = ["train_bpe"]

Pair = tuple[int, int]
Word = tuple[int, ...]


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = ("<|endoftext|>",),
    words: str = GPT2_WORDS,
) -> Tokenizer:
    """Return a tokenizer of `vocab_size` tokens learned from `texts`, which are read once and not kept.

    The special tokens get the first ids, then the 256 bytes, then the merges; the first special token is the one that
    ends a text (`Tokenizer.end_tokens`). `words` is a regular expression for a word. Of pairs that occur equally often,
    the one with the smallest left id is merged first, then the one with the smallest right id.

    Vocabulary and merges equal those of the `tokenizers` library (`BpeTrainer`, its initial alphabet the 256 bytes).
    Like it, training ends with fewer tokens where no pair is left, and takes a special token in the texts for ordinary
    text.

    Raises ValueError if `vocab_size` leaves no room for special tokens and bytes, if a text has a lone surrogate, or if
    `texts` or `special_tokens` is a single string.
    """
    for name, strings in (("texts", texts), ("special_tokens", special_tokens)):
        check_texts(name, strings)
    check("vocab_size", vocab_size)
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*special_tokens, *sorted(BYTE_ALPHABET)]))}
    if vocab_size < len(vocab):
        raise ValueError(
            f"vocab_size is {vocab_size}, but should be at least {len(vocab)}: the 256 bytes and the special tokens"
        )

    only_bytes = Tokenizer({byte: vocab[byte] for byte in BYTE_ALPHABET}, [], {}, words=words)
    pairs = _Pairs(Counter(chain.from_iterable(map(only_bytes.encode_words, texts))))
    token_of = {i: token for token, i in vocab.items()}
    merges = []
    while len(vocab) < vocab_size and (pair := pairs.most_frequent()):
        left, right = token_of[pair[0]], token_of[pair[1]]
        new = vocab.setdefault(left + right, len(vocab))  # a special token spelt like this has its id already
        token_of[new] = left + right
        merges.append((left, right))
        pairs.merge(pair, new)

    special = {token: vocab[token] for token in special_tokens}
    return Tokenizer(vocab, merges, special, words=words, end_tokens=tuple(special_tokens[:1]))


class _Pairs:
    """The pairs of neighbouring tokens in some words: how often each occurs, and in which words."""

    def __init__(self, word_counts: Counter[Word]):
        self._words = list(word_counts)
        self._repeats = list(word_counts.values())
        self._counts: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)  # indices of words that have the pair, or had it
        for i, word in enumerate(self._words):
            for pair in pairwise(word):
                self._counts[pair] += self._repeats[i]
                self._where[pair].add(i)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]  # smallest first: most often, then by ids
        heapify(self._heap)

    def most_frequent(self) -> Pair | None:
        """Take out the pair that occurs most often, of equal ones that with the smallest ids; None if none is left."""
        while self._heap:
            negative, pair = heappop(self._heap)
            count = self._counts[pair]
            if count == -negative:
                return pair
            if count:  # it has become rarer since, and goes back to where it belongs now
                heappush(self._heap, (-count, pair))
        return None

    def merge(self, pair: Pair, new: int) -> None:
        """Write the token `new` for `pair` in every word."""
        born: set[Pair] = set()
        for i in self._where.pop(pair):
            for neighbours in pairwise(self._words[i]):
                self._counts[neighbours] -= self._repeats[i]
            self._words[i] = _merged(self._words[i], pair, new)
            for neighbours in pairwise(self._words[i]):
                self._counts[neighbours] += self._repeats[i]
                if new in neighbours:
                    self._where[neighbours].add(i)
                    born.add(neighbours)
        for neighbours in born:
            heappush(self._heap, (-self._counts[neighbours], neighbours))


def _merged(word: Word, pair: Pair, new: int) -> Word:
    """Return `word` with `new` for each `pair`, from the left: of three equal tokens in a row, the first two merge."""
    tokens: list[int] = []
    for token in word:
        if tokens and (tokens[-1], token) == pair:
            tokens[-1] = new
        else:
            tokens.append(token)
    return tuple(tokens)
