"""Files cut short, with a byte flipped, doubled or swapped: an error that names the file or its folder, or what is right."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import zstandard
from checkpoints.test_loading import write_gguf
from pyarrow import parquet
from safetensors.torch import save_file
from tiny_assets import READ_ONLY, start

from course_lib import assets, checkpoints, storage
from course_lib.checkpoints import gguf as converting
from course_lib.corpora import TokenShards, shakespeare, write_shards
from course_lib.corpora.readers import read_texts
from course_lib.devices import pick_device
from course_lib.tokenization import Tokenizer, load_tokenizer, save_tokenizer, train_bpe

TEXTS = ["one\n", "zwei — drei", "🐎", *map(str, range(40))]
CPU = torch.device("cpu")
LLAMA = {
    "model_type": "llama", "vocab_size": 262, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
    "rope_theta": 500.0, "tie_word_embeddings": True,
}  # fmt: skip


# ---------------------------------------------------------------- small files of every kind, and what is read from them


def write_llama(folder: Path) -> None:
    """Write a checkpoint of one layer in two files, as `save_pretrained` would."""
    save_tokenizer(train_bpe(TEXTS, 262), folder)
    layer = "model.layers.0."
    shapes = {"model.embed_tokens": (262, 8), "model.norm": (8,), f"{layer}input_layernorm": (8,)}
    shapes |= {f"{layer}post_attention_layernorm": (8,), f"{layer}self_attn.q_proj": (8, 8)}
    shapes |= {
        f"{layer}self_attn.k_proj": (4, 8),
        f"{layer}self_attn.v_proj": (4, 8),
        f"{layer}self_attn.o_proj": (8, 8),
    }
    shapes |= {f"{layer}mlp.gate_proj": (12, 8), f"{layer}mlp.up_proj": (12, 8), f"{layer}mlp.down_proj": (8, 12)}
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    names = sorted(tensors)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, its in parts.items():
        save_file({name: tensors[name] for name in its}, folder / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, its in parts.items() for name in its}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")


def read_llama(folder: Path) -> object:
    model, tokenizer = checkpoints.load(folder, CPU, torch.float32)
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}, described(tokenizer)


def described(tokenizer: Tokenizer) -> object:
    return [tokenizer.encode(text) for text in TEXTS], tokenizer.end_ids, tokenizer.chat_template


def write_texts(folder: Path, name: str) -> None:
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)
    if name == "a.parquet":
        parquet.write_table(pa.table({"text": TEXTS}), folder / name, write_page_checksum=True)
    else:
        packed = zstandard.ZstdCompressor(write_checksum=True).compress(lines)
        (folder / name).write_bytes({"a.txt": TEXTS[1].encode(), "a.jsonl": lines, "a.jsonl.zst": packed}[name])


def read_gguf(folder: Path) -> object:
    shutil.rmtree(folder / "stage", ignore_errors=True)
    (folder / "stage").mkdir()
    made = converting._convert_file(folder / "tiny.gguf", False, folder / "stage")
    weights = converting.read_converted(made)[1]
    return {name: tensor.tolist() for name, tensor in weights.items()}, load_tokenizer(made).vocab


def write_corpus(folder: Path) -> None:
    write_shards(TEXTS, train_bpe(TEXTS, 262), folder / "corpus", shard_tokens=30)
    (folder / "corpus").rename(folder / "whole")
    for file in (folder / "whole").iterdir():
        file.rename(folder / file.name)
    (folder / "whole").rmdir()


def read_corpus(folder: Path) -> object:
    shards = TokenShards(folder)
    return shards[:].tolist(), shards.vocab_size, shards.n_texts, shards.n_bytes


def read_all(folder: Path) -> list[str]:
    return list(read_texts(folder))


Case = tuple[Callable[[Path], None], Callable[[Path], object], bool]
CASES: dict[str, Case] = {  # file -> what writes it, what reads it, and whether a changed byte in it is always noticed
    "config.json": (write_llama, read_llama, False),
    "a.safetensors": (write_llama, read_llama, False),
    "model.safetensors.index.json": (write_llama, read_llama, True),
    "tokenizer.json": (write_llama, lambda folder: described(load_tokenizer(folder)), False),
    "tokenizer_config.json": (write_llama, lambda folder: described(load_tokenizer(folder)), False),
    "tiny.gguf": (lambda folder: write_gguf(folder / "tiny.gguf"), read_gguf, False),
    "index.json": (write_corpus, read_corpus, True),
    "shard-00001.bin": (write_corpus, read_corpus, False),
    "a.jsonl.zst": (lambda folder: write_texts(folder, "a.jsonl.zst"), read_all, True),
    "a.parquet": (lambda folder: write_texts(folder, "a.parquet"), read_all, False),
    "a.jsonl": (lambda folder: write_texts(folder, "a.jsonl"), read_all, False),
    "a.txt": (lambda folder: write_texts(folder, "a.txt"), read_all, False),
}
NO_END = ("a.txt", "a.jsonl")  # of these nothing says where they end


def spread(size: int, n: int) -> list[int]:
    """Return up to `n` places in `size` bytes: half of them at the beginning, where a file says what follows."""
    near = range(min(size, n // 2))
    return sorted({*near, *np.linspace(0, size - 1, n - len(near), dtype=int).tolist()})


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    for place in spread(len(whole), 100):
        yield "cut", whole[:place]
    for place in spread(len(whole), 100):
        yield "flipped", whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
    yield "doubled", whole + whole
    yield "longer", whole + b"\x01"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_named_or_read_as_it_was(name, tmp_path):
    write, read, is_checked = CASES[name]
    write(tmp_path)
    file, expected = tmp_path / name, read(tmp_path)
    whole = file.read_bytes()
    for kind, damaged in damages(whole):
        file.write_bytes(damaged)
        try:
            found = read(tmp_path)
        except (ValueError, OSError) as error:
            assert name in str(error) or str(tmp_path) in str(error), (kind, error)
            continue
        if kind == "cut" and name not in NO_END:  # a byte less may be white space, or padding
            assert found == expected, (kind, len(damaged))
        if kind == "flipped" and is_checked:
            assert found == expected, (kind, damaged)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("tokenizer_config.json", *NO_END)])
def test_a_missing_or_swapped_file_is_named(name, tmp_path):
    write, read, _ = CASES[name]
    write(tmp_path)
    file = tmp_path / name
    for content in (b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"GGUF" * 100, bytes(1000)):
        file.write_bytes(content)
        with pytest.raises((ValueError, OSError)) as error:
            read(tmp_path)
        assert name in str(error.value) or str(tmp_path) in str(error.value), content[:10]
    file.unlink()
    with pytest.raises((ValueError, OSError)):
        read(tmp_path)


# ---------------------------------------------------------------- single faults


def test_the_index_says_in_which_file_a_tensor_lies(tmp_path):
    write_llama(tmp_path)
    expected = read_llama(tmp_path)
    save_file({"model.norm.weight": torch.full((8,), 7.0)}, tmp_path / "z.safetensors")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    second = next(iter(index["weight_map"]))
    save_file({second: torch.zeros(3)}, tmp_path / "z.safetensors")
    index["weight_map"]["extra"] = "z.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"z\.safetensors holds no extra, which model\.safetensors\.index\.json says"):
        read_llama(tmp_path)
    save_file({second: torch.zeros(3), "rotary_emb.inv_freq": torch.zeros(1)}, tmp_path / "z.safetensors")
    index["weight_map"]["rotary_emb.inv_freq"] = index["weight_map"].pop("extra")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_llama(tmp_path) == expected  # though z holds that tensor too, and comes last


@pytest.mark.parametrize(
    "place", ["../b.safetensors", "/tmp/b.safetensors", "C:\\b.safetensors", "..", "x/../b.safetensors"]
)
def test_an_index_leads_to_no_other_folder(place, tmp_path):
    write_llama(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], place)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must be a name without folders"):
        read_llama(tmp_path)


@pytest.mark.parametrize("column", [[1], [b"x"], [["x"]]], ids=["numbers", "bytes", "lists"])
def test_a_parquet_column_that_holds_no_texts_is_named(column, tmp_path):
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet .*column 'text' holds no texts, but"):
        read_all(tmp_path)


def test_zst_frames_of_every_kind_are_followed(tmp_path):
    """Several frames, one without its size, a run of one byte, and one that is to be skipped."""
    line = json.dumps({"text": "a" * 300_000}).encode() + b"\n"
    plain, sized = zstandard.ZstdCompressor(write_content_size=False), zstandard.ZstdCompressor(write_checksum=True)
    whole = plain.compress(line) + b"\x53\x2a\x4d\x18\x03\x00\x00\x00abc" + sized.compress(line)
    (tmp_path / "a.jsonl.zst").write_bytes(whole)
    assert read_all(tmp_path) == ["a" * 300_000] * 2
    for n in (1, 4, 5, len(whole) // 3):
        (tmp_path / "a.jsonl.zst").write_bytes(whole[:-n])
        with pytest.raises(ValueError, match=r"a\.jsonl\.zst"):
            read_all(tmp_path)


def test_a_mac_leaves_files_of_its_own_in_a_copied_cache(tmp_path, monkeypatch):
    (tmp_path / "hamlet_gut.txt").write_text("To be")
    (tmp_path / "._hamlet_gut.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    monkeypatch.setattr(assets, "fetch", lambda _name: tmp_path)
    assert [work.text for work in shakespeare.works()] == ["To be"]


def test_nothing_of_an_earlier_tokenizer_comes_back(tmp_path):
    old = train_bpe(TEXTS, 262, special_tokens=["<a>", "<b>"])
    old = Tokenizer(old.vocab, old.merges, old.special_tokens, end_tokens=("<a>", "<b>"), chat_template="old")
    save_tokenizer(old, tmp_path)
    assert load_tokenizer(tmp_path).end_tokens == ("<a>", "<b>")
    (tmp_path / "chat_template.jinja").write_text("old")
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<b>"}')
    for end in (("<b>",), ()):
        save_tokenizer(Tokenizer(old.vocab, old.merges, old.special_tokens, end_tokens=end), tmp_path)
        new = load_tokenizer(tmp_path)
        assert (new.end_tokens, new.chat_template, "bos_token" in new.named_tokens) == (end, None, False)


def test_files_are_read_and_written_in_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    def named(encoding, _stacklevel=2):
        assert encoding is not None, "the locale's encoding would be taken"
        return encoding

    write_llama(tmp_path)
    with monkeypatch.context() as strict:
        strict.setattr(io, "text_encoding", named)
        read_llama(tmp_path)
        save_tokenizer(load_tokenizer(tmp_path), tmp_path)
        (tmp_path / "corpus").mkdir()
        write_corpus(tmp_path / "corpus")
        read_corpus(tmp_path / "corpus")
        write_gguf(tmp_path / "tiny.gguf")
        read_gguf(tmp_path)


def test_an_empty_variable_names_no_device(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "")
    assert isinstance(pick_device(), torch.device)


def test_what_the_course_makes_goes_where_it_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    assert storage.own_dir() == tmp_path and not list(tmp_path.iterdir())
    output, errors = start(READ_ONLY + "print(storage.own_dir() == storage.cache_dir())").communicate()
    assert output == "False\n", errors


def test_a_config_whose_model_cannot_be_is_named_with_its_file(tmp_path):
    write_llama(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"num_attention_heads": 3}))
    with pytest.raises(ValueError, match=r"config\.json: .*3 heads do not divide d_model 8"):
        read_llama(tmp_path)
