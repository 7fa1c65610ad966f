"""Exercise 04.6: one step of the training of a tokenizer."""

import re
from collections import Counter
from itertools import pairwise

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_MERGE"]

Words = dict[tuple[str, ...], int]


def _counted_words(generator: torch.Generator) -> list[tuple[Words]]:
    """Return words cut into tokens, with how often each occurs: small corpora in each of which something can go wrong.

    The letters are drawn afresh.
    """
    letters = [chr(ord("a") + i) for i in torch.randperm(26, generator=generator)[:8].tolist()]
    a, b, c, d, e, f, g, h = letters
    first, second, third, fourth = sorted([(a, b), (c, d), (e, f), (g, h)])
    p, q, r, s = sorted(letters[:4])
    return [
        ({(c,): 20, (e, f): 9, (g, h, g): 2, (g, h, e): 1, (b, g, h): 2, (f, e, b): 2},),  # a frequent word
        ({(b, c, a, a, a, a, b): 2, (a, a, a): 5, (b, c): 8, (d, b, c): 4},),  # a pair that overlaps with itself
        ({second: 4, fourth: 4, first: 4, third: 4, (a, c): 3},),  # four pairs equally often
        ({(p, s): 3, (p + q, p): 3},),  # two, of which the smaller has the larger right token, and the later spelling
        ({(p + s, q): 4, (r, p): 4, (q, r): 4},),  # three, of which the smallest is the longest
        ({(p, r): 5, (p, q): 5, (p, s): 5},),  # three with the same left token
        ({(d + a + b, c): 2, (a + b, c): 7, (d, a, b + c): 3, (a, b, c): 1},),  # one spelling, several pairs
        ({(e, f, g): 4, (f, e, h): 4, (g, h): 6},),  # a pair and its mirror image
        ({(a, b, c, a, b): 5, (d, e): 8, (f, d): 1},),  # a pair that stands in a word twice
        ({(d, b, c): 9, (b, c): 2, (e, f): 3},),  # one that stands behind another
    ]


def _as_in_the_paper(words: Words) -> tuple[tuple[str, str], Words]:
    """Merge by a regular expression in words whose tokens stand apart by spaces: algorithm 1 of arXiv 1508.07909."""
    counts = Counter()
    for word, count in words.items():
        counts.update({pair: count * list(pairwise(word)).count(pair) for pair in pairwise(word)})
    best = min(pair for pair in counts if counts[pair] == max(counts.values()))
    bigram = re.compile(rf"(?<!\S){re.escape(' '.join(best))}(?!\S)")
    return best, {tuple(bigram.sub("".join(best), " ".join(word)).split()): count for word, count in words.items()}


_SIGNATURE = '''\
def merge_once(words):
    """Byte-pair encoding: the most frequent pair of neighbours, and the words with it merged.

    words: each word as a tuple of its tokens -> how often the word occurs in the text. All
    neighbours in a word count, those that overlap too. Of pairs that are equally frequent, take
    the smallest, as `min` finds it. Merge it wherever it stands, from left to right.
    merge_once({("l", "o", "w"): 5, ("l", "o"): 2}) returns
    (("l", "o"), {("lo", "w"): 5, ("lo",): 2}).
    """
'''
_MERGE = """\
for token in word:
    if tokens and (tokens[-1], token) == best:
        tokens[-1] += token
    else:
        tokens.append(token)
"""


def _least(tie: str) -> str:
    """Return the choice of the most frequent pair, where of several it is the one whose `tie` is smallest."""
    return f"min(counts, key=lambda pair: (-counts[pair], {tie}))"


def _step(
    neighbours: str = "zip(word, word[1:])",
    counted: str = "n",
    best: str = _least("pair"),
    merge: str = _MERGE,
    keep: str = "merged[tuple(tokens)] = n",
    start: str = "{}",
    result: str = "best, merged",
) -> str:
    """Return the cell of exercise 04.6 with its steps as given."""
    merging = "".join(f"        {line}\n" for line in merge.splitlines())
    return f"""\
{_SIGNATURE}    counts = {{}}
    for word, n in words.items():
        for pair in {neighbours}:
            counts[pair] = counts.get(pair, 0) + {counted}
    best = {best}
    merged = {start}
    for word, n in words.items():
        tokens = []
{merging}        {keep}
    return {result}
"""


_STREAM = "(lambda s: zip(s, s[1:]))([token for word, n in words.items() for token in n * word]) if n else ()"
_APART = "[word[i : i + 2] for i in range(len(word) - 1) if word[i : i + 2] != word[i - 1 : i + 1]]"

WRITE_MERGE = Exercise(
    id="04.6",
    kind="write",
    title="One merge",
    section="A tokenizer from nothing",
    answer="merge_once",
    results=("pair", "words"),
    inputs=_counted_words,
    expected=_as_in_the_paper,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_step(),
    why="A word that occurs a thousand times is looked at once and counts a thousandfold: that is what makes the training "
    "affordable. Called 4,000 times, this function trains a tokenizer of 4,000 tokens beside the bytes; the order of the "
    "merges *is* the tokenizer. `train_bpe` in the library makes the same merges, and only touches the words that a merge "
    "changes. Equally frequent pairs are common, and without a rule for them two programs would make two tokenizers of one "
    "text.",
    hints=(
        "Two passes over the words: the first counts pairs, the second writes the words anew. Only one pair is merged.",
        "A pair is worth as much as the words that it stands in: add the word's count, for each place where it stands.",
        "Build the new word token by token: where the last token you wrote and the next one are the pair, make them one.",
    ),
    mistakes=(
        Mistake(
            _step(counted="1"),
            "Each word counts once, however often it occurs. A pair in a word that occurs 20 times occurs 20 times.",
        ),
        Mistake(
            _step(neighbours="set(zip(word, word[1:]))"),
            "A pair that stands in a word several times is counted once for it. It counts wherever it stands.",
        ),
        Mistake(
            _step(neighbours=_APART),
            "Pairs that overlap are counted once: in `aaa` the pair (a, a) has two places, and both count, though only one "
            "of them can be merged.",
        ),
        Mistake(
            _step(neighbours="zip(word[::2], word[1::2])"),
            "Only every other pair is counted: a token in the middle of a word has a neighbour on each side.",
        ),
        Mistake(
            _step(best="max(counts, key=counts.get)"),
            "The pair is one of the most frequent, but where several are equally frequent it should be the smallest; yours "
            "is the one that was seen first.",
        ),
        Mistake(
            _step(best="max(reversed(counts), key=counts.get)"),
            "The pair is one of the most frequent, but where several are equally frequent it should be the smallest; yours "
            "is the one that was seen last.",
        ),
        Mistake(
            _step(best="max(counts, key=lambda pair: (counts[pair], pair))"),
            "The pair is one of the most frequent, but where several are equally frequent it should be the smallest; yours "
            "is the largest.",
        ),
        Mistake(
            _step(best=_least("''.join(pair)")),
            "Equally frequent pairs are compared by the token that they would make. Compare the pairs: (a, z) is smaller "
            "than (ab, a), though aba comes before az.",
        ),
        Mistake(
            _step(best=_least("pair[0]")),
            "Equally frequent pairs are compared by their left token alone. Where that is the same, the right one decides.",
        ),
        Mistake(
            _step(best=_least("pair[1]")),
            "Equally frequent pairs are compared by their right token. Pairs are compared from the left, as words are.",
        ),
        Mistake(
            _step(best=_least("len(''.join(pair))")),
            "Of equally frequent pairs yours is the shortest. The smallest is the one that comes first in a sorted list.",
        ),
        Mistake(
            _step(best="min(counts, key=lambda pair: (counts[pair], pair))"),
            "That is the *rarest* pair. The most frequent one saves the most tokens.",
        ),
        Mistake(
            _step(best="min(counts)"),
            "That is the smallest pair of all. The rule only decides between pairs that are equally frequent.",
        ),
        Mistake(
            _step(merge=_MERGE.replace("if tokens and", "if len(tokens) == 1 and")),
            "Merged only at the beginning of a word. The pair may stand anywhere in it.",
        ),
        Mistake(
            _step(merge=_MERGE.replace("if tokens and", "if ''.join(best) not in tokens and tokens and")),
            "Only the first place in each word is merged. The pair may stand in a word several times.",
        ),
        Mistake(
            _step(
                merge=_MERGE.replace("in word:", "in word[::-1]:").replace(
                    "(tokens[-1], token)", "(token, tokens[-1])"
                ),
                keep="merged[tuple(tokens[::-1])] = n",
            ),
            "Merged from the right: in `aaa` it is the first two that become one token, and the last that is left over.",
        ),
        Mistake(
            _step(merge="tokens = [a + b if (a, b) == best else a for a, b in zip(word, (*word[1:], ''))]"),
            "The second half of the pair is still there behind the merged token: it has to be skipped.",
        ),
        Mistake(
            _step(merge=_MERGE.replace("(tokens[-1], token) == best", "tokens[-1] + token == ''.join(best)")),
            "Two neighbours are merged because they *spell* the same as the pair. (ab, c) and (a, bc) are different pairs, "
            "and a tokenizer that mixes them up cannot replay its merges.",
        ),
        Mistake(
            _step(merge="tokens = ' '.join(word).replace(' '.join(best), ''.join(best)).split(' ')"),
            "The pair was replaced in a string, where `ab c` is also the end of `dab c`. Compare whole tokens.",
        ),
        Mistake(
            _step(merge=_MERGE.replace("in word:", "in ''.join(word):")),
            "The words were cut into single letters again: the merges of earlier steps are lost.",
        ),
        Mistake(
            _step(
                merge=_MERGE.replace(
                    "(tokens[-1], token) == best", "best in [(tokens[-1], token), (token, tokens[-1])]"
                )
            ),
            "The mirrored pair is merged too. Order matters: (a, b) is not (b, a).",
        ),
        Mistake(
            _step(neighbours="map(tuple, map(sorted, zip(word, word[1:])))"),
            "A pair and its mirror image are counted as one. Order matters: (a, b) is not (b, a).",
        ),
        Mistake(
            _step(neighbours=_STREAM, counted="1"),
            "Pairs are counted across the words' ends. No token spans two words, so their ends are no neighbours.",
        ),
        Mistake(
            _step(keep="merged[tuple(tokens)] = 1"),
            "The words are right, but their counts are lost; the next step needs them.",
        ),
        Mistake(
            _step(keep="merged[tuple(tokens)] = n if tuple(tokens) == word else counts[best]"),
            "A word that was merged gets the count of the pair. It still occurs as often as it did.",
        ),
        Mistake(
            _step(keep="merged.update({tuple(tokens): n} if tuple(tokens) != word else {})"),
            "Words without the pair have disappeared. They stay as they are.",
        ),
        Mistake(
            _step(start="dict(words)"),
            "The words from before the merge are still there, beside the merged ones: every one of them would count twice.",
        ),
        Mistake(
            _step(merge="tokens = word"),
            "The pair is right, but it has not been merged: the words are as they were.",
        ),
        Mistake(
            _step(result="''.join(best), merged"),
            "Both steps are right, but what is returned first is the new token. Return the pair: a tokenizer has to know "
            "which two tokens it merges.",
        ),
        Mistake(
            _step(result="merged, best"),
            "Both are right, but in the wrong order: the pair first, then the words.",
        ),
        Mistake(
            _step(result="merged"),
            "The words are right. The pair is wanted as well, before them.",
        ),
        Mistake(
            _step(result="best"),
            "The pair is right. The words, with the pair merged, are wanted as well.",
        ),
    ),
)
