"""Where texts come from, which of them are fit to learn from, and which are there twice.

Every step takes one text after the other and forgets it, so that a corpus may be of any size: files are read piece by piece,
quality is judged from a text alone, and of a text that is compared with all others only 2 KB are kept.
"""

import io
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from hashlib import blake2b
from importlib import import_module
from itertools import combinations
from pathlib import Path

import numpy as np

from course_lib.assets import AssetError

__all__ = [
    "QUALITY_RULES",
    "Rule",
    "containment",
    "jaccard",
    "measure_quality",
    "minhash",
    "near_duplicates",
    "quality_failures",
    "read_texts",
    "stream_hub",
]

# ---------------------------------------------------------------- sources


def read_texts(folder: str | Path) -> Iterator[str]:
    """Yield the texts in `folder` and its subfolders, file by file in order of their paths.

    A `.txt` file is one text. A line of a `.jsonl` or `.jsonl.zst` file is an object that has its text under "text", as a row
    of a `.parquet` file has it in the column of that name; where there is none but null, the text is left out. Other and
    hidden files are passed over. In memory are one line of a `.jsonl`, one row group of a `.parquet`, or a whole `.txt`.

    Raises ValueError if there is no such file in the folder, or when it comes to one that cannot be read so; and
    ModuleNotFoundError for `.zst` and `.parquet` where the packages of the extra `data` are not installed.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and _reader(path))
    visible = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not visible:
        raise ValueError(f"{folder} holds no file that ends in {', '.join(_READERS)}")
    return (text for path in visible for text in _reader(path)(path))


def _reader(path: Path) -> Callable[[Path], Iterator[str]] | None:
    return next((read for ending, read in _READERS.items() if path.name.endswith(ending)), None)


def _read_txt(path: Path) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from _lines(path, file)


def _read_jsonl_zst(path: Path) -> Iterator[str]:
    zstandard = _optional("zstandard", path.name)
    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)  # what was packed with --long=31 needs that
    with path.open("rb") as file, unpacker.stream_reader(file, read_across_frames=True) as unpacked:
        yield from _lines(path, io.BufferedReader(unpacked))


def _lines(path: Path, file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            if not isinstance(text, str | None):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise ValueError(f'{path}, line {number}, should be {{"text": "…"}}, but begins {line[:60]!r}') from None
        if text is not None:
            yield text


def _read_parquet(path: Path) -> Iterator[str]:
    parquet = _optional("pyarrow.parquet", path.name)
    with parquet.ParquetFile(path) as file:
        if "text" not in file.schema_arrow.names:
            raise ValueError(f"{path} has no column 'text', but {', '.join(file.schema_arrow.names)}")
        for rows in file.iter_batches(batch_size=16, columns=["text"]):
            yield from (text for text in rows.column(0).to_pylist() if text is not None)


_READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".jsonl.zst": _read_jsonl_zst, ".parquet": _read_parquet}


def stream_hub(name: str, configuration: str | None = None, split: str = "train") -> Iterator[str]:
    """Yield the texts of a data set, from the column "text", as they arrive from the Hugging Face hub; nothing is stored.

    `stream_hub("HuggingFaceFW/fineweb-edu", "sample-10BT")`, for example; a folder's path names a data set too. Nothing in
    the course needs it. Raises ModuleNotFoundError if the extra `data` is not installed, and AssetError if the hub has no
    such data set, or none can be reached.
    """
    datasets = _optional("datasets", name)
    try:
        rows = datasets.load_dataset(name, configuration, split=split, streaming=True)
    except Exception as error:  # every release has its own kinds of errors for: unknown, not allowed, no network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AssetError(
            f"the data set {name!r} could not be streamed from the Hugging Face hub ({reason}). Without a network, copy its "
            "files into a folder and give that to read_texts"
        ) from None
    return (row["text"] for row in rows if row["text"] is not None)


def _optional(module: str, source: str):
    """Import a module of the extra `data`, or say how to install it."""
    try:
        return import_module(module)
    except ModuleNotFoundError:
        package = module.split(".")[0]
        raise ModuleNotFoundError(
            f"reading {source} takes the package {package}, which is not installed: `pip install 'course-lib[data]'`, or "
            f"`pip install {package}`"
        ) from None


# ---------------------------------------------------------------- quality


class _Document:
    """A text and what the rules count in it."""

    def __init__(self, text: str):
        self.text = text
        self.words = text.split()
        self.lines = [line.strip() for line in text.splitlines() if line.strip()]
        self.paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]

    @cached_property
    def n_characters(self) -> int:
        """Characters of the words, without the white space between them."""
        return sum(map(len, self.words))


def _share(things: list[str], fits: Callable[[str], object]) -> float:
    return sum(map(bool, map(fits, things))) / max(len(things), 1)


def _mean_word_length(document: _Document) -> float:
    return document.n_characters / max(len(document.words), 1)


def _symbols(document: _Document) -> float:
    n_symbols = max(document.text.count("#"), document.text.count("...") + document.text.count("…"))
    return n_symbols / max(len(document.words), 1)


def _stop_words(document: _Document) -> int:
    return len(_STOP_WORDS & {word.strip(".,;:!?'\"()[]").lower() for word in document.words})


def _repeated(parts: list[str]) -> float:
    return 1 - len(set(parts)) / max(len(parts), 1)


def _repeated_characters(parts: list[str]) -> float:
    return 1 - sum(map(len, set(parts))) / max(sum(map(len, parts)), 1)


def _top_ngram(document: _Document, n: int) -> float:
    """Share of the characters that lie in the `n` words that stand together most often, at least twice."""
    counts = Counter(zip(*(document.words[i:] for i in range(n)), strict=False))
    ngram, count = max(counts.items(), key=lambda item: item[1], default=((), 0))
    return sum(map(len, ngram)) * count / document.n_characters if count > 1 else 0.0


def _repeated_ngrams(document: _Document, n: int) -> float:
    """Share of the characters that lie in `n` words that stood together before; each character counts once."""
    seen, lengths, repeated, counted = set(), [len(word) for word in document.words], 0, 0
    for i, ngram in enumerate(zip(*(document.words[i:] for i in range(n)), strict=False)):
        if ngram in seen:
            repeated += sum(lengths[max(i, counted) : i + n])
            counted = i + n
        seen.add(ngram)
    return repeated / max(document.n_characters, 1)


def _sentences(document: _Document) -> int:
    return len(re.findall(r"[.!?]+[\"'”’)\]]*(?=\s|$)", document.text))


_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
_BULLETS = ("•", "‣", "◦", "●", "▪", "-", "*")
_GOPHER, _REPETITION = "arXiv 2112.11446, appendix A.1.1", "arXiv 2112.11446, table A1"
_C4 = "arXiv 1910.10683, section 2.2"


@dataclass(frozen=True)
class Rule:
    """A text passes if what `measure` counts in it is no less than `lowest` and no more than `highest`."""

    name: str
    source: str
    measure: Callable[[_Document], float]
    lowest: float = -math.inf
    highest: float = math.inf


QUALITY_RULES = (
    Rule("number of words", _GOPHER, lambda d: len(d.words), 50, 100_000),
    Rule("mean length of a word", _GOPHER, _mean_word_length, 3, 10),
    Rule("hashes or ellipses per word", _GOPHER, _symbols, highest=0.1),
    Rule(
        "lines that begin with a bullet",
        _GOPHER,
        lambda d: _share(d.lines, lambda s: s.startswith(_BULLETS)),
        highest=0.9,
    ),
    Rule(
        "lines that end in an ellipsis",
        _GOPHER,
        lambda d: _share(d.lines, lambda s: s.endswith(("...", "…"))),
        highest=0.3,
    ),
    Rule("words with a letter", _GOPHER, lambda d: _share(d.words, lambda s: re.search(r"[^\W\d_]", s)), lowest=0.8),
    Rule("different English stop words", _GOPHER, _stop_words, lowest=2),
    Rule("repeated lines", _REPETITION, lambda d: _repeated(d.lines), highest=0.3),
    Rule("repeated paragraphs", _REPETITION, lambda d: _repeated(d.paragraphs), highest=0.3),
    Rule("characters in repeated lines", _REPETITION, lambda d: _repeated_characters(d.lines), highest=0.2),
    Rule("characters in repeated paragraphs", _REPETITION, lambda d: _repeated_characters(d.paragraphs), highest=0.2),
    *(
        Rule(f"characters in the commonest {n} words in a row", _REPETITION, partial(_top_ngram, n=n), highest=limit)
        for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(f"characters in repeated runs of {n} words", _REPETITION, partial(_repeated_ngrams, n=n), highest=limit)
        for n, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    ),
    Rule("sentences", _C4, _sentences, lowest=5),
    Rule("curly brackets", _C4, lambda d: d.text.count("{") + d.text.count("}"), highest=0),
    Rule("“lorem ipsum”", _C4, lambda d: d.text.lower().count("lorem ipsum"), highest=0),
)
"""The rules by which Gopher's corpus and C4 chose whole pages of English out of the web. (C4 also cuts single lines.)"""


def measure_quality(text: str) -> dict[str, float]:
    """Return what each of the QUALITY_RULES, by name, counts in `text`."""
    document = _Document(text)
    return {rule.name: rule.measure(document) for rule in QUALITY_RULES}


def quality_failures(text: str) -> list[str]:
    """Return the names of the QUALITY_RULES that `text` breaks, none if it is fit. They judge English prose from the web."""
    found = measure_quality(text)
    return [rule.name for rule in QUALITY_RULES if not rule.lowest <= found[rule.name] <= rule.highest]


# ---------------------------------------------------------------- duplicates

_N_HASHES = 256  # numbers of a signature: 2 KB, and an estimate is off by at most 0.03 as a rule, √(¼ / 256)
_MISSED = 0.01  # of the pairs exactly as alike as the threshold, so many escape the buckets
_KEYS = np.random.SeedSequence(0).generate_state(_N_HASHES, np.uint64)
_WORD = re.compile(r"\w+")


def _shingles(text: str, n_words: int) -> np.ndarray:
    """Return a number of 64 bits for each run of `n_words` words of `text`, sorted and once; a shorter text is one run."""
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
    threshold that is not above 0 and at most 1.
    """
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
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold should be above 0 and at most 1, not {threshold}")

    def missed(length: int) -> float:
        return (1 - threshold**length) ** (_N_HASHES // length)

    return next((length for length in range(32, 1, -1) if missed(length) <= _MISSED), 1)
