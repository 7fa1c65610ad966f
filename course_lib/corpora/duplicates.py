"""Which texts are there twice, or nearly: of a text that is compared with all others only 2 KB are kept."""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations

import numpy as np

from course_lib.checks import check, check_texts

__all__ = ["containment", "jaccard", "minhash", "near_duplicates"]

_N_HASHES = 256  # numbers of a signature: 2 KB, and an estimate is off by at most 0.03 as a rule, √(¼ / 256)
_MISSED = 0.01  # of the pairs exactly as alike as the threshold, so many escape the buckets
_KEYS = np.random.SeedSequence(0).generate_state(_N_HASHES, np.uint64)
_WORD = re.compile(r"\w+")


def _shingles(text: str, n_words: int) -> np.ndarray:
    """Return a number of 64 bits for each run of `n_words` words of `text`, sorted and once; a shorter text is one run."""
    check("n_words", n_words)
    words = np.array([_word_number(word) for word in _WORD.findall(text.lower())], np.uint64)
    n_words = min(n_words, len(words))
    runs = np.zeros(len(words) - n_words + 1 if n_words else 0, np.uint64)
    for i in range(n_words):
        runs = _mix(runs + words[i : i + len(runs)])
    return np.unique(runs)


@lru_cache(1 << 16)
def _word_number(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Scatter numbers of 64 bits, no two to the same one: splitmix64 (doi 10.1145/2660193.2660195, figure 17)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def jaccard(first: str, second: str, n_words: int = 5) -> float:
    """Return what share of the runs of `n_words` words that occur in either text occurs in both: 0 to 1."""
    ours, theirs = _shingles(first, n_words), _shingles(second, n_words)
    n_common = len(np.intersect1d(ours, theirs, assume_unique=True))
    return n_common / max(len(ours) + len(theirs) - n_common, 1)


def containment(part: str, whole: str, n_words: int = 5) -> float:
    """Return what share of the runs of `n_words` words of `part` occurs in `whole`: 0 to 1, and 1 for a passage cut out."""
    runs = _shingles(part, n_words)
    return len(np.intersect1d(runs, _shingles(whole, n_words), assume_unique=True)) / max(len(runs), 1)


def minhash(text: str, n_words: int = 5) -> np.ndarray | None:
    """Return the signature of `text`: 256 numbers of 64 bits, or None for a text without words.

    Shuffle all runs of words there are, and note which of a text's own comes first. Two texts note the same one with a
    probability equal to their Jaccard similarity: of the runs in either, each is the first one equally likely, and it is in
    both with just that probability (Broder 1997, doi 10.1109/SEQUEN.1997.666900). So the share of 256 shuffles in which two
    signatures agree estimates it. A shuffle is a hash function here, and the first is the smallest.
    """
    runs = _shingles(text, n_words)
    return np.array([_mix(runs ^ key).min() for key in _KEYS]) if len(runs) else None


def near_duplicates(texts: Iterable[str], threshold: float = 0.8, n_words: int = 5) -> list[tuple[int, int, float]]:
    """Return the pairs of `texts` whose Jaccard similarity is about `threshold` (0 to 1) or more, and its estimate.

    A pair is (i, j, similarity), i < j being the texts' places. Similarity is that of their runs of `n_words` words, in lower
    case, without punctuation; see `minhash`. Not all pairs are compared, of which there are too many: signatures are cut into
    bands, and only texts that agree in all numbers of some band meet in a bucket (locality-sensitive hashing: Mining of
    Massive Datasets, section 3.4). Bands are as long as they can be for 99 of 100 pairs as alike as `threshold` to meet.

    0.8 is usual for copies on the web (arXiv 2107.06499); a revised text or old spelling needs less. Raises ValueError for a
    threshold that is not above 0 and at most 1, and for a single string in the place of texts.
    """
    check_texts("texts", texts)
    check("threshold", threshold, float, at_most=1)
    length = _band_length(threshold)
    signatures: dict[int, np.ndarray] = {}
    buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        if (signature := minhash(text, n_words)) is None:
            continue
        signatures[i] = signature
        for start in range(0, _N_HASHES - length + 1, length):
            buckets[start, signature[start : start + length].tobytes()].append(i)
    met = {pair for together in buckets.values() for pair in combinations(together, 2)}
    alike = [(i, j, float((signatures[i] == signatures[j]).mean())) for i, j in sorted(met)]
    return [pair for pair in alike if pair[2] >= threshold]


def _band_length(threshold: float) -> int:
    def missed(length: int) -> float:
        return (1 - threshold**length) ** (_N_HASHES // length)

    return next((length for length in range(32, 1, -1) if missed(length) <= _MISSED), 1)
