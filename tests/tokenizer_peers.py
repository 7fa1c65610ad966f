"""Small tokenizers of the very same pipelines as today's open models have, made with the `tokenizers` library.

Each is trained by the library, with the normaliser, pre-tokeniser, decoder, post-processor, added tokens and model options
that the published `tokenizer.json` has.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import tokenizers
from texts import shakespeares_text
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from course_lib.tokenization import Tokenizer, load_tokenizer

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN3 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def byte_vocabulary(pattern: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train byte-level BPE on Shakespeare, cut by `pattern`; return its vocabulary and merges."""
    peer = tokenizers.Tokenizer(models.BPE())
    peer.pre_tokenizer = by_pattern(pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    peer.train_from_iterator(shakespeares_text().splitlines(keepends=True), trainer)
    model = json.loads(peer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


@cache
def character_vocabulary(first: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train BPE on Shakespeare's characters as SentencePiece would: `first`, then the bytes, then the characters."""
    peer = tokenizers.Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(vocab_size=1200, show_progress=False)
    peer.train_from_iterator(shakespeares_text().splitlines(), trainer)
    model = json.loads(peer.to_str())["model"]
    tokens = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"], "▁▁", "▁▁▁▁", "\n"]
    merges = [*map(tuple, model["merges"]), ("▁", "▁"), ("▁▁", "▁▁")]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def by_pattern(pattern: str, behavior: str = "isolated", invert: bool = False):
    cut = pre_tokenizers.Split(Regex(pattern), behavior, invert)
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def starting_with(token: str, peer: tokenizers.Tokenizer):
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B:1", special_tokens=[(token, peer.token_to_id(token))]
    )


def byte_level(pattern: str, special: list[str], **options) -> tokenizers.Tokenizer:
    vocab, merges = byte_vocabulary(pattern)
    peer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    peer.pre_tokenizer = by_pattern(pattern)
    peer.decoder = decoders.ByteLevel()
    peer.post_processor = processors.ByteLevel(trim_offsets=False)
    peer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return peer


def llama3() -> tokenizers.Tokenizer:
    vocab, merges = byte_vocabulary(LLAMA3)
    kept = [pair for rank, pair in enumerate(merges) if rank % 5 or rank < 100]  # so that some tokens have no merge
    peer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=kept, ignore_merges=True))
    peer.pre_tokenizer = by_pattern(LLAMA3)
    peer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|reserved|>", "<|reserved|>1"]
    peer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    offsets = processors.ByteLevel(trim_offsets=False)
    peer.post_processor = processors.Sequence([offsets, starting_with("<|begin_of_text|>", peer)])
    return peer


def mistral_nemo() -> tokenizers.Tokenizer:
    peer = byte_level(TEKKEN, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], ignore_merges=True)
    peer.post_processor = starting_with("<s>", peer)
    return peer


def qwen3() -> tokenizers.Tokenizer:
    peer = byte_level(QWEN3, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    peer.normalizer = normalizers.NFC()
    peer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    peer.add_tokens(["<new>"])  # what `add_tokens` adds is looked for after normalising
    return peer


def olmo2() -> tokenizers.Tokenizer:
    peer = byte_level(LLAMA3, ["<|endoftext|>", "<|pad|>"])
    peer.pre_tokenizer = by_pattern(LLAMA3, "removed", invert=True)
    peer.add_tokens([AddedToken("|||IP_ADDRESS|||", normalized=True), AddedToken("|||IP", normalized=False)])
    return peer


def with_gaps() -> tokenizers.Tokenizer:
    """None of the models' own: a pattern that leaves much unmatched."""
    peer = byte_level(LLAMA3, ["<s>"])
    peer.pre_tokenizer = by_pattern(r"\p{L}+|\p{N}\p{N}")
    return peer


def characters(first: tuple[str, ...], *, strip: bool) -> tokenizers.Tokenizer:
    vocab, merges = character_vocabulary(first)
    model = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    peer = tokenizers.Tokenizer(model)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    peer.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if strip else steps)
    return peer


def mistral(pre_tokenizer=None) -> tokenizers.Tokenizer:
    """Mistral as first published, or with a Metaspace `pre_tokenizer` as newer versions of transformers save it."""
    peer = characters(("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), strip=True)
    if pre_tokenizer is None:
        peer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        peer.pre_tokenizer = pre_tokenizer
        peer.add_tokens(["<new>"])
    peer.post_processor = starting_with("<s>", peer)
    special = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
    peer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return peer


def gemma3() -> tokenizers.Tokenizer:
    peer = characters(("<pad>", "<eos>", "<bos>", "<unk>", "\n\n", "\n\n\n", "▁▁▁", "<tag>", "</tag>"), strip=False)
    peer.normalizer = normalizers.Replace(" ", "▁")
    peer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    peer.post_processor = starting_with("<bos>", peer)
    peer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<pad>", "<eos>", "<bos>", "<unk>")])
    added = ("\n\n", "\n\n\n", "▁▁▁", "▁▁", "<tag>", "</tag>")
    peer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return peer


def joining_spaces() -> tokenizers.Tokenizer:
    """None of the models' own: merges that join a character to the space after it."""
    peer = tokenizers.Tokenizer(models.BPE())
    peer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    peer.train_from_iterator(shakespeares_text().splitlines()[:1000], trainer)
    trained = json.loads(peer.to_str())["model"]
    vocab = dict.fromkeys(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *trained["vocab"]])
    model = models.BPE(
        vocab={token: i for i, token in enumerate(vocab)},
        merges=[tuple(pair) for pair in trained["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
    )
    joined = tokenizers.Tokenizer(model)
    joined.normalizer = normalizers.Replace(" ", "▁")
    joined.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return joined


def metaspace(scheme: str) -> Callable[[], tokenizers.Tokenizer]:
    return lambda: mistral(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False))


PEERS = {
    "llama3": llama3,
    "mistral-nemo": mistral_nemo,
    "qwen3": qwen3,
    "olmo2": olmo2,
    "with gaps": with_gaps,
    "mistral": mistral,
    "mistral, first": metaspace("first"),
    "mistral, always": metaspace("always"),
    "gemma3": gemma3,
    "joining spaces": joining_spaces,
}


def loaded(peer: tokenizers.Tokenizer, folder: Path) -> Tokenizer:
    """Save the peer into `folder`, and load it from there."""
    peer.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)
