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
from texts import EVERY_CHARACTER, HARD_TEXTS, SCRIPTS, TEXTS, TOO_NEW, script_text, shakespeares_text
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer

from course_lib import assets
from course_lib.tokenization import Tokenizer, load_tokenizer, save_tokenizer

BYTES_WITHOUT_TOKEN = (
    b"\x04\x06\x13\x14\x16\x1d\xf1\xf2"  # what SmolLM2's vocabulary lacks of the bytes that UTF-8 uses
)


@pytest.fixture(scope="session")
def shakespeare() -> str:
    return shakespeares_text()


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
    return load_tokenizer(folder)


@pytest.fixture(scope="session", params=["smollm2", "gpt2"])
def pair(request) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """A tokenizer and its peer."""
    return request.getfixturevalue(f"{request.param}_tokenizer"), request.getfixturevalue(f"{request.param}_peer")


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_ids_equal_the_librarys(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_ids_equal_the_librarys_in_every_script(pair, script):
    ours, theirs = pair
    text = script_text(script)
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
    save_tokenizer(pair[0], folder)
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
    loaded = load_tokenizer(folder)
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
    ours = load_tokenizer(tmp_path)
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
    ours = load_tokenizer(tmp_path)
    assert (ours.merges, ours.end_ids, ours.chat_template) == (gpt2_tokenizer.merges, {0}, "x")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ALONE = BYTE_LEVEL | {"use_regex": False}


def split(pattern: str, behavior: str = "Isolated") -> dict:
    """A pre-tokeniser that cuts words out by a regular expression."""
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": behavior == "Removed"}
    return {"type": "Sequence", "pretokenizers": [cut, BYTES_ALONE]}


def template(*items: dict) -> dict:
    """A post-processor that puts `<s>` where `items` say."""
    return {
        "type": "TemplateProcessing",
        "single": list(items),
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }


TEXT, START = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}
UNSUPPORTED = {
    "normalizer .*Lowercase": {"normalizer": {"type": "Lowercase"}},
    "pre_tokenizer .*Whitespace": {"pre_tokenizer": {"type": "Whitespace"}},
    "pre_tokenizer null": {"pre_tokenizer": None},
    'pre_tokenizer .*"add_prefix_space": true': {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}},
    'pre_tokenizer .*"use_regex": false': {"pre_tokenizer": BYTES_ALONE},
    'pre_tokenizer .*"individual_digits": false': {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL],
        }
    },
    "pre_tokenizer .*(a)|b": {"pre_tokenizer": split("(a)|b")},  # a group that captures
    r"pre_tokenizer .*\\h": {"pre_tokenizer": split(r"\h+")},  # a hexadecimal digit there, white space in `regex`
    r"pre_tokenizer .*\{1,3\}\+": {"pre_tokenizer": split(r"\p{N}{1,3}+")},  # repeated there, possessive in `regex`
    r"pre_tokenizer .*s\$": {"pre_tokenizer": split(r"\s$")},  # a line's end there, the text's end in `regex`
    "pre_tokenizer .*Removed": {"pre_tokenizer": split(r"\p{L}+", "Removed")},  # what is no letter would be lost
    "post_processor .*<s>": {"post_processor": template(START, TEXT, START)},
    "post_processor .*Bert": {"post_processor": {"type": "BertProcessing", "sep": ["", 0], "cls": ["", 0]}},
    "decoder .*WordPiece": {"decoder": {"type": "WordPiece"}},
    "decoder null": {"decoder": None},
    "a model of type Unigram": {"model": {"type": "Unigram"}},
    "the model's byte_fallback True": {"model": {"byte_fallback": True}},
    "the model's dropout 0.1": {"model": {"dropout": 0.1}},
    "lstrip of '<|endoftext|>'": {"added_token": {"lstrip": True}},
    "normalized of '<e\u0301>'": {
        "added_token": {"content": "<e\u0301>", "normalized": True},
        "normalizer": {"type": "NFC"},
    },
}


@pytest.mark.parametrize(("message", "changes"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_what_would_be_read_differently_is_named(gpt2_peer, tmp_path, message, changes):
    edited(gpt2_peer, tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_a_broken_vocabulary_is_named():
    with pytest.raises(ValueError, match="'a' and 'b' share the id 0"):
        Tokenizer({"a": 0, "b": 0}, [], {})
    with pytest.raises(ValueError, match="token 'a b' is not written in GPT-2's byte alphabet"):
        Tokenizer({"a b": 0}, [], {})
    with pytest.raises(ValueError, match="merging 'a' with 'b' needs 'ab' in the vocabulary"):
        Tokenizer({"a": 0, "b": 1}, [("a", "b")], {})
    for kind in ("start", "end"):
        with pytest.raises(ValueError, match=f"the {kind} token '<x>' is not in the vocabulary"):
            Tokenizer({"a": 0}, [], {}, **{f"{kind}_tokens": ("<x>",)})


def test_all_end_tokens_are_saved_and_what_else_is_in_the_file_stays(tmp_path):
    tokenizer = Tokenizer({"a": 0}, [], {"<end>": 1, "<stop>": 2}, end_tokens=("<stop>", "<end>"))
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.7}')
    save_tokenizer(tokenizer, tmp_path)
    assert load_tokenizer(tmp_path).end_ids == {1, 2}
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"temperature": 0.7, "eos_token_id": [1, 2]}
