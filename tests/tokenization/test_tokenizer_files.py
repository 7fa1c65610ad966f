"""The tokenizers of today's open models: small ones of their pipelines, against `tokenizers` and `transformers`."""

import json
import unicodedata
from itertools import pairwise

import pytest
import regex
import tokenizers
from hypothesis import given
from texts import EVERY_CHARACTER, HARD_TEXTS, NORMALISED_APART, SCRIPTS, TEXTS, TOO_NEW, script_text, shakespeares_text
from tokenizer_peers import (
    PEERS,
    QWEN3,
    byte_level,
    byte_vocabulary,
    character_vocabulary,
    gemma3,
    llama3,
    loaded,
    qwen3,
)
from tokenizers import AddedToken
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from course_lib.tokenization import Tokenizer, load_tokenizer, save_tokenizer

MORE_TEXTS = {
    **HARD_TEXTS,
    "special tokens of every model": "<s>a</s> b <bos>c<|eot_id|>\n[INST] d [/INST]<think> e</think> |||IP_ADDRESS|||x <new>f",
    "tokens that begin another": "<|reserved|>1 <|reserved|> \n\n\n▁▁▁ ▁▁ <tag></tag>",
    "the mark of a space": "▁a ▁b▁ c▁▁d  ▁",
    "the space before": " a", "two spaces before": "  a", "nothing but a space": " ",
    "a space around special tokens": " <s> a <s>  b<s> ",
    "decomposed": "e\u0301 <e\u0301> <new>\u0338 <|eot_id|>\u0338 \u1100\u1161\u11a8 \u212b \ufb01 가각",
    "capitals": "'S 'RE'Ll I'D X'ſ O'K camelCase HTTPServer iPhone McDonald ǅungla",
    "new lines": "a\n\nb\n\n\nc \n d\r\n\r\ne\t\n!\n?\n/\n//\n",
}  # fmt: skip
SHORT_TEXTS = [text for text in MORE_TEXTS.values() if len(text) < 1000]
COMPARABLE = TEXTS.filter(NORMALISED_APART.isdisjoint)


@pytest.fixture(scope="module", params=PEERS)
def model(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def peer(model) -> tokenizers.Tokenizer:
    return PEERS[model]()


@pytest.fixture(scope="module")
def ours(peer, tmp_path_factory) -> Tokenizer:
    return loaded(peer, tmp_path_factory.mktemp("model"))


# ---------------------------------------------------------------- ids, and back


def ids_equal(ours: Tokenizer, peer: tokenizers.Tokenizer, text: str) -> list[int]:
    ids = ours.encode(text)
    assert ids == peer.encode(text, add_special_tokens=False).ids, repr(text)
    return ids


@pytest.mark.parametrize("text", MORE_TEXTS.values(), ids=MORE_TEXTS)
def test_ids_and_text_equal_the_librarys(ours, peer, text):
    ids = ids_equal(ours, peer, text)
    assert ours.decode(ids) == peer.decode(ids, skip_special_tokens=False)


@given(text=COMPARABLE)
def test_ids_and_text_equal_the_librarys_for_any_text(ours, peer, text):
    ids = ids_equal(ours, peer, text)
    assert ours.decode(ids) == peer.decode(ids, skip_special_tokens=False)


def test_ids_equal_the_librarys_in_every_script(ours, peer):
    for script in SCRIPTS.values():
        ids_equal(ours, peer, "".join(c for c in script_text(script) if c not in NORMALISED_APART))


def test_ids_equal_the_librarys_on_shakespeare(ours, peer):
    ids = ids_equal(ours, peer, shakespeares_text())
    assert ours.decode(ids) == shakespeares_text()


@pytest.mark.parametrize("model", ["llama3", "mistral-nemo", "qwen3"], indirect=True)
def test_ids_equal_the_librarys_around_every_character_that_the_patterns_name(ours, peer):
    """Contractions in any case, digits, spaces, marks, and letters of every kind beside one another."""
    named = set(regex.findall(r"[\p{N}\p{Z}\p{Cc}\p{Lt}\p{Lm}\p{Pc}]", EVERY_CHARACTER)) | set("ſKſsSdDmMtTİıß")
    for character in named - TOO_NEW - NORMALISED_APART:
        ids_equal(
            ours, peer, f"a{character} {character}1 {character}{character}\nB{character}'{character} x'l{character}"
        )


OTHER_PATTERNS = {  # of models that the course does not name
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


@pytest.mark.parametrize("pattern", OTHER_PATTERNS.values(), ids=OTHER_PATTERNS)
def test_patterns_that_both_engines_read_the_same_are_taken_as_they_are(pattern, tmp_path):
    peer = byte_level(pattern, ["<s>"])
    ours = loaded(peer, tmp_path)
    for text in [*SHORT_TEXTS, *map(script_text, SCRIPTS.values())]:
        ids_equal(ours, peer, text)


@given(text=COMPARABLE)
def test_any_text_comes_back_as_far_as_the_format_allows(model, ours, text):
    for token in ours.special_tokens:
        text = text.replace(token, "")
    expected = {"qwen3": unicodedata.normalize("NFC", text)}.get(model, text)
    if model in ("mistral", "mistral, first", "mistral, always", "gemma3", "joining spaces"):
        expected = expected.replace("▁", " ")
    if model in ("mistral, first", "mistral, always"):  # a space that was there takes the place of the one put before
        expected = expected.removeprefix(" ")
    assert ours.decode(ours.encode(text)) == expected


def test_what_the_post_processor_adds_is_told_and_not_hidden(ours, peer):
    for text in ("Hello there", "", " x"):
        assert ours.encode_prompt(text) == list(ours.start_ids) + ours.encode(text) == peer.encode(text).ids
    if ours.start_ids:
        written = ours.start_tokens[0] + "Hello"
        assert ours.encode_prompt(written) == ours.encode(written)
        assert peer.token_to_id(ours.start_tokens[0]) == ours.start_ids[0]


def test_the_models_that_have_one_start_with_it():
    starts = {name: make().encode("").tokens for name, make in PEERS.items()}
    assert starts["llama3"] == ["<|begin_of_text|>"] and starts["gemma3"] == ["<bos>"]
    assert starts["mistral"] == starts["mistral-nemo"] == ["<s>"]
    assert starts["qwen3"] == starts["olmo2"] == []


def test_streamed_bytes_keep_the_spaces_between_words(ours):
    ids = ours.encode("to be or not")
    assert b"".join(ours.decode_bytes([i]) for i in ids).decode().removeprefix(" ") == "to be or not"


# ---------------------------------------------------------------- words and merges


@given(text=COMPARABLE)
def test_words_are_the_text_in_parts_that_merge_alone(ours, text):
    words = list(ours.encode_words(text))
    assert [i for ids in words for i in ids] == ours.encode(text)


@given(text=COMPARABLE)
def test_replayed_merges_end_in_the_tokens(ours, text):
    for ids in ours.encode_words(text):
        if ids and not {ours.piece(i) for i in ids} & ours.special_tokens.keys() and len(ids) < 50:
            word = ours.decode_bytes(ids).decode()
            steps = ours.merge_steps(word)
            assert steps[-1].ids == ids
            assert b"".join(map(ours.decode_bytes, [[i] for i in steps[0].ids])).decode() == word


def plain_merging(symbols: list[str], merges: list[tuple[str, str]]) -> list[tuple[int, int, list[str]]]:
    """Byte-pair encoding as it is defined: look for the pair learned first, merge its leftmost place, look again."""
    steps = []
    while True:
        found = [(merges.index(pair), i) for i, pair in enumerate(pairwise(symbols)) if pair in merges]
        if not found:
            return steps
        rank, place = min(found)
        symbols = [*symbols[:place], symbols[place] + symbols[place + 1], *symbols[place + 2 :]]
        steps.append((rank, place, symbols))


@pytest.mark.parametrize("model", ["mistral-nemo", "qwen3", "gemma3"], indirect=True)
@pytest.mark.parametrize("word", [" Shakespeare", " nevertheless", "aaaaaa", " naïve漢", "    "])
def test_merges_are_replayed_in_the_order_that_defines_them(ours, word):
    steps = ours.merge_steps(word)
    token_of_id = {i: token for token, i in ours.vocab.items()}
    symbols = [token_of_id[i] for i in steps[0].ids]
    expected = plain_merging(symbols, ours.merges)
    told = [
        (step.rank, step.position, [token_of_id[i] for i in step.ids]) for step in steps[1:] if step.rank is not None
    ]
    assert told == expected
    for step in steps:
        assert step.pieces == tuple(map(ours.piece, step.ids))
    for before, step in pairwise(steps):
        if step.rank is None:
            continue
        known = [rank for rank in before.ranks if rank is not None]
        assert step.rank == min(known) and step.position == before.ranks.index(step.rank)
        assert ours.vocab["".join(ours.merges[step.rank])] == step.ids[step.position]
    assert len(steps[0].ranks) == len(steps[0].ids) - 1
    assert steps[-1].rank is None or not any(rank is not None for rank in steps[-1].ranks)


def test_a_word_taken_whole_from_the_vocabulary_is_told():
    vocab = {token: i for i, token in enumerate("abc")} | {"ab": 3, "abc": 4}
    tokenizer = Tokenizer(vocab, [("a", "b")], {}, ignore_merges=True)
    bytes_, merged, whole = tokenizer.merge_steps("abc")
    assert bytes_.pieces == ("a", "b", "c") and (bytes_.rank, bytes_.position) == (None, None)
    assert merged.pieces == ("ab", "c") and (merged.rank, merged.position) == (0, 0)
    assert whole.ids == (4,) and (whole.rank, whole.position) == (None, 0)


@pytest.mark.parametrize(("text", "count"), [("two words", 2), ("", 0)])
def test_only_one_word_is_replayed(text, count):
    tokenizer = Tokenizer({c: i for i, c in enumerate("twordsĠ")}, [], {})
    with pytest.raises(ValueError, match=f"should be one word, but this tokenizer cuts it into {count}"):
        tokenizer.merge_steps(text)


# ---------------------------------------------------------------- files


def test_a_saved_tokenizer_is_the_same_here_and_in_the_library(ours, tmp_path):
    save_tokenizer(ours, tmp_path)
    again, theirs = load_tokenizer(tmp_path), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert type(again) is type(ours) and again.start_ids == ours.start_ids
    for text in SHORT_TEXTS:
        assert again.encode(text) == ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert again.encode_prompt(text) == ours.encode_prompt(text)


def transformers_llama3() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=llama3(), bos_token="<|begin_of_text|>", eos_token=AddedToken("<|eot_id|>", normalized=False)
    )


def transformers_llama2(legacy: bool) -> LlamaTokenizer:
    vocab, merges = character_vocabulary(("<unk>", "<s>", "</s>"))
    return LlamaTokenizer(vocab=dict(vocab), merges=merges, legacy=legacy, add_bos_token=True)


def transformers_gemma() -> GemmaTokenizer:
    vocab, merges = character_vocabulary(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    return GemmaTokenizer(vocab=dict(vocab), merges=merges, add_bos_token=True)


def transformers_qwen() -> Qwen2Tokenizer:
    vocab, merges = byte_vocabulary(QWEN3)
    return Qwen2Tokenizer(vocab=vocab | {"<|endoftext|>": len(vocab)}, merges=merges, pad_token="<|endoftext|>")


SAVED = {
    "llama3": transformers_llama3,
    "llama2": lambda: transformers_llama2(legacy=False),
    "llama2, legacy": lambda: transformers_llama2(legacy=True),
    "gemma": transformers_gemma,
    "qwen": transformers_qwen,
}


@pytest.mark.parametrize("make", SAVED.values(), ids=SAVED)
def test_what_save_pretrained_writes_loads(make, tmp_path):
    peer = make()
    peer.add_tokens(["<new>"])
    peer.chat_template = "{{ bos_token }}"
    peer.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert (ours.chat_template, ours.vocab_size) == ("{{ bos_token }}", len(peer))
    assert ours.named_tokens == peer.special_tokens_map
    assert ours.end_ids == {peer.eos_token_id}
    for text in SHORT_TEXTS:
        assert ours.encode(text) == peer.encode(text, add_special_tokens=False), repr(text)
        if not text.startswith("<s>"):
            assert ours.encode_prompt(text) == peer.encode(text)


def test_end_tokens_are_gathered_from_every_file(tmp_path):
    peer = qwen3()
    ids = {token: peer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>")}
    ours = loaded(peer, tmp_path)
    assert ours.end_ids == frozenset()
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>", "lstrip": false}}')
    assert load_tokenizer(tmp_path).end_tokens == ("<|im_end|>",)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": null, "bos_token": "<|endoftext|>"}')
    assert load_tokenizer(tmp_path).end_tokens == ()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids["<|im_end|>"]}))
    assert load_tokenizer(tmp_path).end_ids == {ids["<|im_end|>"]}
    listed = [ids["<|im_end|>"], ids["<|endoftext|>"], 999_999]  # the last one no text of this tokenizer can end with
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    assert load_tokenizer(tmp_path).end_ids == set(ids.values())
    assert load_tokenizer(tmp_path).named_tokens == {"bos_token": "<|endoftext|>"}


def test_of_several_chat_templates_the_default_is_read(tmp_path):
    loaded(qwen3(), tmp_path)
    templates = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    assert load_tokenizer(tmp_path).chat_template == "d"
    (tmp_path / "chat_template.jinja").write_text("a file of its own")
    assert load_tokenizer(tmp_path).chat_template == "a file of its own"


SPACES_TO_MARKS = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
UNSUPPORTED = {
    "normalizer .*NFKC": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, SPACES_TO_MARKS]}},
    'pre_tokenizer .*"split": true': {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
    },
    "pre_tokenizer .*Whitespace": {"pre_tokenizer": {"type": "Whitespace"}},
    "decoder .*Metaspace": {"decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}},
    "the model's byte_fallback False": {"model": {"byte_fallback": False}},
    "normalized of '<bos>'": {"added_token": {"normalized": True}, "normalizer": "Prepend"},
}


@pytest.mark.parametrize(("message", "changes"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_what_would_be_read_differently_is_named(tmp_path, message, changes):
    spec = json.loads(gemma3().to_str())
    changes = dict(changes)
    spec["model"] |= changes.pop("model", {})
    next(token for token in spec["added_tokens"] if token["content"] == "<bos>").update(changes.pop("added_token", {}))
    if changes.get("normalizer") == "Prepend":
        steps = [{"type": "Prepend", "prepend": "▁"}, SPACES_TO_MARKS]
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        changes = {
            "normalizer": {"type": "Sequence", "normalizers": steps},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": [*spec["decoder"]["decoders"], strip]},
        }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | changes))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_a_byte_without_a_token_is_named(tmp_path):
    spec = json.loads(gemma3().to_str())
    spec["model"]["vocab"]["<other>"] = spec["model"]["vocab"].pop("<0xE2>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="<0xE2> is not in the vocabulary"):
        load_tokenizer(tmp_path)
