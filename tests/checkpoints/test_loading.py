"""The real model against `transformers` on the same weights, and the cache of converted models."""

import hashlib
import os
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
import transformers
from safetensors import SafetensorError
from tiny_assets import READ_ONLY, start, truncate, visible

from course_lib import assets, storage
from course_lib.checkpoints import convert, loading
from course_lib.checkpoints import gguf as converting
from course_lib.inference.generation import chat_prompt

CPU = torch.device("cpu")
TEXT = "The cat sat on the mat. In 1492, Columbus sailed — naïvely — from Spain.\n\ndef f(x):\n    return x + 1\n"


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """`transformers`' Llama and tokenizer, read by its own reader from the same file."""
    file = assets.fetch("smollm2-135m-instruct")
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@torch.inference_mode()
def test_smollm2_equals_transformers(smollm2, peer):
    model, tokenizer = smollm2
    ids = torch.tensor([tokenizer.encode(TEXT)])
    expected = peer[0](ids).logits
    assert (model(ids) - expected).abs().max() < 1e-3
    cache = model.new_cache(1, ids.shape[1])
    cached = torch.cat([model(part, cache) for part in ids.split([10, 1, ids.shape[1] - 11], dim=1)], dim=1)
    assert (cached - expected).abs().max() < 1e-3


def test_smollm2_chat_prompt_equals_transformers(smollm2, peer):
    _, tokenizer = smollm2
    messages = [
        {"role": "user", "content": "Hi  there\n"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "2+2?"},
    ]
    for chat in (messages, [{"role": "system", "content": "Be brief."}, *messages]):
        expected = peer[1].apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert chat_prompt(tokenizer, chat) == expected


def test_smollm2_predicts_english(smollm2):
    """Rows in the wrong order still load; only what the model says gives it away."""
    model, tokenizer = smollm2
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    assert tokenizer.decode([int(model(ids)[0, -1].argmax())]) == " Paris"


# The cache of converted models, with a GGUF of some KiB


def write_gguf(path: Path) -> dict[str, torch.Tensor]:
    """Write a random model of two layers in the Llama architecture, and return its tensors as they are in the file."""
    alphabet = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = [*alphabet, "<end>", "in"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(len(tokens))
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(48)
    writer.add_context_length(16)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<end>" else 1 for token in tokens])
    writer.add_token_merges(["i n"])
    writer.add_eos_token_id(tokens.index("<end>"))
    writer.add_bos_token_id(tokens.index("in"))
    writer.add_chat_template("{{ messages }}")
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,)}
    for layer in range(2):
        block = {
            "attn_norm": (32,),
            "attn_q": (32, 32),
            "attn_k": (16, 32),
            "attn_v": (16, 32),
            "attn_output": (32, 32),
        }
        block |= {"ffn_norm": (32,), "ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    return tensors


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> dict[str, torch.Tensor]:
    """The tensors of an asset called `tiny`, the only one, whose GGUF lies in a cache that nothing else uses."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    tensors = write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    asset = replace(assets.ASSETS["smollm2-135m-instruct"], name="tiny", members=("tiny/tiny.gguf",))
    asset = replace(asset, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset})
    monkeypatch.setattr(loading, "MODELS", ("tiny",))
    return tensors


def in_a_process(script: str):
    """Start `script` in another process that knows `tiny`."""
    return start(
        "import torch\nfrom course_lib.checkpoints import gguf, loading\nloading.MODELS = ('tiny',)\n" + script
    )


def load_tiny() -> dict[str, torch.Tensor]:
    return loading.load("tiny", CPU, torch.float32)[0].state_dict()


LOAD = "loading.load('tiny', torch.device('cpu'))\n"


def converted() -> Path:
    return convert("tiny", thorough=False)


def test_a_conversion_keeps_every_weight_and_shows_its_progress(tiny, capsys):
    weights = load_tiny()
    q, k, v = weights["blocks.1.attention.qkv.weight"].split([32, 16, 16])
    gate, up = weights["blocks.1.feed_forward.up.weight"].split(48)
    assert torch.equal(weights["embedding.weight"], tiny["token_embd.weight"])
    assert torch.equal(v, tiny["blk.1.attn_v.weight"])
    assert torch.equal(gate, tiny["blk.1.ffn_gate.weight"])
    assert torch.equal(up, tiny["blk.1.ffn_up.weight"])
    for ours, theirs in ((q, tiny["blk.1.attn_q.weight"]), (k, tiny["blk.1.attn_k.weight"])):
        assert torch.equal(ours[:8], torch.cat([theirs[0:8:2], theirs[1:8:2]]))  # the first head, of 8 rows
    assert "converting tiny.gguf" in capsys.readouterr().err


def test_a_conversion_keeps_what_chat_templates_know_by_name(tiny):
    assert loading.load("tiny", CPU)[1].named_tokens == {"bos_token": "in", "eos_token": "<end>"}


def test_a_conversion_lets_go_of_what_it_has_merged(tiny, monkeypatch):
    """The gates and ups have a shape of their own; two make one matrix, so two at most need to be there at once."""
    living, most = [], 0
    dequantize = converting.dequantize

    def counted(data, kind):
        nonlocal living, most
        array = dequantize(data, kind).copy()
        living = [reference for reference in [*living, weakref.ref(array)] if reference() is not None]
        most = max(most, sum(reference().shape == (48, 32) for reference in living))
        return array

    monkeypatch.setattr(converting, "dequantize", counted)
    monkeypatch.setattr(torch, "tensor", torch.from_numpy)  # no copy, so that an array lives as long as its tensor
    load_tiny()
    assert 1 <= most <= 2


def test_others_may_read_a_converted_model(tiny):
    before = os.umask(0o022)
    try:
        folder = converted()
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert (folder.stat().st_mode & 0o777, modes) == (0o755, {0o644})


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_load_mends_a_damaged_conversion(tiny, name, damage):
    expected = {weight: tensor.clone() for weight, tensor in load_tiny().items()}
    damage(converted() / name)
    weights = load_tiny()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[weight], expected[weight]) for weight in expected)
    assert visible(converted().parent) == [converted().name]


def test_the_command_prints_one_line_for_each_asset_model_and_folder():
    command = subprocess.run([sys.executable, "-m", "course_lib"], capture_output=True, text=True, check=True)
    *lines, converted, stored, folder = command.stdout.splitlines()
    for line, real in zip(lines, assets.ASSETS.values(), strict=True):
        assert line.startswith(f"{real.name}: ")
        assert real.licence in line
        assert line.endswith(str(assets.fetch(real.name)))
    assert converted.startswith("smollm2-135m-instruct: converted")
    assert stored.startswith("smollm2-135m-instruct: converted") and "-packed-" in stored
    assert folder.endswith(str(storage.cache_dir()))


def test_the_command_fails_with_the_message_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    command = subprocess.run([sys.executable, "-m", "course_lib"], capture_output=True, text=True)
    assert command.returncode == 1
    assert "is not ready" in command.stderr
    assert "Traceback" not in command.stderr


def test_the_command_mends_what_has_kept_its_size(tiny):
    folder = converted()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    command = in_a_process("import runpy\nrunpy.run_module('course_lib', run_name='__main__')")
    output, errors = command.communicate()
    assert f"tiny: converted, {folder}" in output, errors
    assert (folder / "model.safetensors").read_bytes() == whole


def test_a_full_disk_leaves_nothing_half(tiny, monkeypatch):
    def full_disk(*_args):
        raise SafetensorError("I/O error: No space left on device")

    with monkeypatch.context() as full:
        full.setattr(converting, "save_file", full_disk)
        with pytest.raises(storage.AssetError, match=r"(?s)No space left.*MB free"):
            load_tiny()
    assert visible(storage.cache_dir() / "converted") == []
    load_tiny()


def test_a_process_killed_while_converting_leaves_nothing(tiny):
    killed = in_a_process(
        "import os, signal\ngguf.save_file = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n" + LOAD
    )
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [entry.startswith(".") for entry in visible(storage.cache_dir() / "converted")] == [True]
    load_tiny()
    assert visible(storage.cache_dir() / "converted") == [converted().name]


def test_processes_share_one_conversion(tiny):
    report = "convert = gguf._convert_file\n"
    report += "gguf._convert_file = lambda *paths: print('converting') or convert(*paths)\n"
    outputs = [process.communicate() for process in [in_a_process(report + LOAD + "print('loaded')") for _ in range(3)]]
    printed = "".join(output for output, _ in outputs)
    assert (printed.count("converting"), printed.count("loaded")) == (1, 3), outputs


def test_a_prepared_cache_may_be_read_only(tiny):
    converted()
    output, errors = in_a_process(READ_ONLY + LOAD + "print('loaded')").communicate()
    assert output == "loaded\n", errors


def test_a_read_only_cache_without_the_conversion_says_what_to_do(tiny):
    _, errors = in_a_process(READ_ONLY + LOAD).communicate()
    message = errors.partition("AssetError: ")[2]
    assert "Read-only file system" in message
    assert "run `python -m course_lib` once with COURSE_CACHE set to a writable folder" in message
