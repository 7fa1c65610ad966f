"""Folders of today's open models: the same logits as `transformers`, on small models of random weights; and what goes wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects
from model_peers import LLAMA3_ROPE, bert, gemma3, gpt2, llama, mistral, olmo2, qwen3, randomised, rewrite_config, save
from safetensors.torch import load_file, save_file

from course_lib import assets, checkpoints, storage
from course_lib.architecture.attention import padding_mask

CPU = torch.device("cpu")


def as_it_is(folder: Path) -> None:
    pass


def drop_llama_defaults(folder: Path) -> None:
    rewrite_config(folder, {"num_key_value_heads": None, "tie_word_embeddings": None, "hidden_act": None})


def as_gemma_of_2025(folder: Path) -> None:
    """The fields that the model hub's files have: two bases, and the window's pattern as a number."""
    old = {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6}
    rewrite_config(folder, old | {"rope_parameters": None, "layer_types": None, "tie_word_embeddings": None})


WINDOWED = {"use_sliding_window": True, "sliding_window": 5}


def drop_layer_types(folder: Path) -> None:
    rewrite_config(folder, {"layer_types": None})


LEFT_OUT = (
    *("rope_parameters", "tie_word_embeddings", "hidden_act", "hidden_activation", "layer_types"),
    *("num_key_value_heads", "head_dim", "sliding_window", "use_sliding_window", "query_pre_attn_scalar"),
)


def with_a_field_that_means_nothing(folder: Path) -> None:
    rewrite_config(folder, {"sliding_window": 5})


def as_gpt2_of_2019(folder: Path) -> None:
    """The names and the buffers of the file that the model hub has, and a config without today's fields."""
    weights = load_file(folder / "model.safetensors")
    published = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    for layer in range(3):
        published[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
        published[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(published, folder / "model.safetensors")
    rewrite_config(
        folder, dict.fromkeys(("tie_word_embeddings", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"))
    )


@pytest.mark.parametrize(
    ("make", "rewrite"),
    [
        pytest.param(llama, as_it_is, id="llama"),
        pytest.param(lambda: llama(tie_word_embeddings=True), as_it_is, id="llama, tied"),
        pytest.param(lambda: llama(head_dim=16), as_it_is, id="llama, wide heads"),
        pytest.param(lambda: llama(num_key_value_heads=4), drop_llama_defaults, id="llama, defaults left out"),
        pytest.param(lambda: llama(rope_parameters=LLAMA3_ROPE), as_it_is, id="llama 3.1"),
        pytest.param(mistral, as_it_is, id="mistral"),
        pytest.param(lambda: mistral(sliding_window=None), as_it_is, id="mistral, no window"),
        pytest.param(qwen3, as_it_is, id="qwen 3"),
        pytest.param(olmo2, as_it_is, id="olmo 2"),
        pytest.param(gemma3, as_it_is, id="gemma 3"),
        pytest.param(gemma3, as_gemma_of_2025, id="gemma 3 of 2025"),
        pytest.param(llama, with_a_field_that_means_nothing, id="llama, with a window that it does not use"),
        pytest.param(olmo2, with_a_field_that_means_nothing, id="olmo 2, with a window that it does not use"),
        pytest.param(
            lambda: qwen3(max_window_layers=0, **WINDOWED), drop_layer_types, id="qwen 3, all layers windowed"
        ),
        pytest.param(lambda: qwen3(max_window_layers=3, **WINDOWED), drop_layer_types, id="qwen 3, none windowed"),
        pytest.param(gpt2, as_it_is, id="gpt2"),
        pytest.param(gpt2, as_gpt2_of_2019, id="gpt2 of 2019"),
    ],
)
@torch.inference_mode()
def test_logits_equal_transformers_cached_and_uncached(make, rewrite, smollm2, tmp_path):
    torch.manual_seed(0)
    theirs = randomised(make())
    rewrite(save(theirs, smollm2, tmp_path))
    ours, _ = checkpoints.load(tmp_path, CPU, torch.float32)
    ids = torch.randint(60, (2, 21))
    expected = theirs(ids).logits
    assert (ours(ids) - expected).abs().max() < 1e-4
    cache = ours.new_cache(2, 21)
    cached = torch.cat([ours(part, cache) for part in ids.split([4, 1, 9, 1, 6], dim=1)], dim=1)
    assert (cached - expected).abs().max() < 1e-4


@pytest.mark.parametrize("make", [llama, mistral, qwen3, olmo2, gemma3])
def test_fields_that_are_left_out_mean_what_they_mean_to_transformers(make, smollm2, tmp_path):
    """Sizes are then the families' own, so that weights are made for what `transformers` reads there."""
    folder = save(make(num_attention_heads=32, hidden_size=64), smollm2, tmp_path)
    rewrite_config(folder, dict.fromkeys(LEFT_OUT))
    published = (folder / "config.json").read_text()
    theirs = randomised(transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder)))
    theirs.save_pretrained(folder)
    (folder / "config.json").write_text(published)
    ours, _ = checkpoints.load(folder, CPU, torch.float32)
    ids = torch.randint(60, (2, 21), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-4
    assert ours.config.window == getattr(theirs.config, "sliding_window", None)


@pytest.mark.parametrize("is_copy", [True, False], ids=["a copy", "another"])
@pytest.mark.parametrize("make", [lambda: qwen3(tie_word_embeddings=True), gpt2], ids=["qwen3", "gpt2"])
def test_an_unembedding_in_a_tied_checkpoint_counts_only_if_it_differs(make, is_copy, smollm2, tmp_path):
    folder = save(randomised(make()), smollm2, tmp_path)
    weights = load_file(folder / "model.safetensors")
    (embedding,) = (tensor for name, tensor in weights.items() if name.endswith(("embed_tokens.weight", "wte.weight")))
    weights["lm_head.weight"] = embedding.clone() if is_copy else embedding.flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    ours, _ = checkpoints.load(folder, CPU, torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)
    assert (ours.unembedding is None) == is_copy


@torch.inference_mode()
def test_encoder_equals_transformers_bert_and_does_not_see_padding(tmp_path):
    theirs = randomised(bert())
    theirs.save_pretrained(tmp_path)
    ours = checkpoints.load_encoder(tmp_path, CPU, torch.float32)
    ids, lengths = torch.randint(60, (3, 11), generator=torch.Generator().manual_seed(0)), torch.tensor([11, 4, 7])
    mask = padding_mask(lengths, 11)
    expected = theirs(ids, attention_mask=mask[:, 0, 0].long()).last_hidden_state
    got = ours(ids, mask)
    for sentence, length in enumerate(lengths):
        torch.testing.assert_close(got[sentence, :length], expected[sentence, :length], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_real_minilm_equals_transformers():
    folder = assets.fetch("all-minilm-l6-v2")
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        ["The cat sat on the mat.", "Attention is all you need, said eight authors in 2017."],
        return_tensors="pt",
        padding=True,
    )
    ours = checkpoints.load_encoder("all-minilm-l6-v2", CPU, torch.float32)
    lengths = tokens.attention_mask.sum(dim=1)
    got = ours(tokens.input_ids, padding_mask(lengths, tokens.input_ids.shape[1]))
    expected = theirs(**tokens).last_hidden_state
    for sentence, length in enumerate(lengths):
        torch.testing.assert_close(got[sentence, :length], expected[sentence, :length], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_weights_in_several_files_are_read(smollm2, tmp_path):
    theirs = randomised(qwen3())
    save(theirs, smollm2, tmp_path, max_shard_size="10KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 3
    ids = torch.arange(12)[None]
    torch.testing.assert_close(checkpoints.load(tmp_path, CPU, torch.float32)[0](ids), theirs(ids).logits)
    shards[1].unlink()
    with pytest.raises(ValueError, match=rf"holds no {shards[1].name}"):
        checkpoints.load(tmp_path, CPU)


def test_a_checkpoint_never_lies_in_memory_twice(smollm2, tmp_path):
    """Half a gigabyte of weights is loaded by another process, which tells its peak: the model, and a matrix or two more."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8}
    save(llama(**sizes, vocab_size=4000), smollm2, tmp_path, max_shard_size="200MB")
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    script = f"""
import re, sys, torch
from pathlib import Path
from course_lib import checkpoints
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
model, _ = checkpoints.load({str(tmp_path)!r}, torch.device("cpu"), torch.float32)
print(peak() - before)
"""
    used = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert size > 400e6
    assert used < 1.25 * size


def test_dtype_is_as_asked(smollm2, tmp_path):
    model, _ = checkpoints.load(save(gpt2(), smollm2, tmp_path), CPU, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


UNEVEN = ["full_attention", "sliding_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (llama, {"model_type": "mamba"}, "type 'mamba'; supported are llama, mistral, qwen3, olmo2, gemma3_text, gpt2"),
        (llama, {"model_type": "bert"}, "type 'bert'"),
        (llama, {"attention_bias": True}, "attention_bias True"),
        (llama, {"hidden_act": "gelu"}, "hidden_act 'gelu'.*only with 'silu'"),
        (llama, {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        (llama, {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 4}}, "'linear'"),
        (llama, {"rope_scaling": {"type": "linear", "factor": 4}}, "'linear'"),
        (qwen3, {"use_sliding_window": True, "sliding_window": 4, "layer_types": UNEVEN}, "equal distances"),
        (
            qwen3,
            WINDOWED | {"max_window_layers": 1, "layer_types": None},
            "equal distances, not as in max_window_layers 1",
        ),
        (gemma3, {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
        (gemma3, {"hidden_activation": "gelu"}, "hidden_activation 'gelu'"),
        (gpt2, {"activation_function": "relu"}, "activation_function 'relu'.*only with 'gelu_new'"),
        (gpt2, {"scale_attn_weights": False}, "scale_attn_weights False"),
        (gpt2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
    ],
)
def test_unsupported_configurations_are_named(make, changes, message, smollm2, tmp_path):
    folder = save(make(), smollm2, tmp_path)
    rewrite_config(folder, changes)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(folder, CPU)


def test_missing_extra_and_misshapen_tensors_are_named(smollm2, tmp_path):
    folder = save(llama(), smollm2, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    tensors["model.layers.0.surprise"] = torch.zeros(2)
    tensors["model.norm.weight"] = torch.ones(33)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:
        checkpoints.load(folder, CPU)
    for line in (
        "blocks.1.feed_forward.down.weight: wanted (32, 48), got none",
        "model.layers.0.surprise: wanted none, got (2,)",
        "final_norm.weight: wanted (32,), got (33,)",
    ):
        assert line in str(error.value)


def test_a_damaged_file_is_named(smollm2, tmp_path):
    file = save(llama(), smollm2, tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        checkpoints.load(tmp_path, CPU)


# ---------------------------------------------------------------- folders that are not there, and the hub


@pytest.mark.parametrize("source", ["gpt2", "nothing/at/all", "../owner/name", ".hidden/name"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_named(source):
    with pytest.raises(ValueError, match=r"neither a known model \(smollm2-135m-instruct\).*looks like owner/name"):
        checkpoints.load(source, CPU)
    with pytest.raises(ValueError, match=r"neither a known model \(all-minilm-l6-v2\) nor the folder of one"):
        checkpoints.load_encoder(source, CPU)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named_before_any_weights_are_read(name, smollm2, tmp_path):
    folder = save(llama(), smollm2, tmp_path)
    (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(b"not to be read")
    with pytest.raises(ValueError, match=rf"{tmp_path.name} holds no {name}"):
        checkpoints.load(folder, CPU)


@pytest.mark.parametrize(("make", "field"), [(llama, "rms_norm_eps"), (gpt2, "layer_norm_epsilon")])
def test_a_missing_field_is_named(make, field, smollm2, tmp_path):
    folder = save(make(), smollm2, tmp_path)
    rewrite_config(folder, {field: None})
    with pytest.raises(ValueError, match=rf"config\.json lacks '{field}'"):
        checkpoints.load(folder, CPU)


def test_a_hub_id_is_fetched_where_there_is_a_hub(smollm2, tmp_path, monkeypatch):
    """The fake hub has what Llama's repository has: the weights once more in a sub-folder, and once more as `consolidated`."""
    folder = save(llama(), smollm2, tmp_path / "hub")
    (folder / "original").mkdir()
    for extra in ("original/model.safetensors", "consolidated.safetensors", "pytorch_model.bin"):
        (folder / extra).write_bytes(b"too much")

    def snapshot_download(repository, *, allow_patterns, ignore_patterns):
        assert repository == "somebody/some-model"
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (tmp_path / "here" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, tmp_path / "here" / file)
        return str(tmp_path / "here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    model, _ = checkpoints.load("somebody/some-model", CPU)
    assert model.config.d_model == 32
    fetched = {path.name for path in (tmp_path / "here").iterdir()}
    assert fetched == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }


def test_a_hub_whose_error_has_no_text_is_reported(monkeypatch):
    def snapshot_download(*_args, **_options):
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(storage.AssetError, match=r"could not be fetched from the Hugging Face hub \(TimeoutError\)"):
        checkpoints.load("somebody/some-model", CPU)


def test_a_hub_that_cannot_be_reached_is_said_to_be(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(storage.AssetError, match=r"'somebody/some-model' is no folder here.*could not be fetched"):
        checkpoints.load("somebody/some-model", CPU)


def test_a_hub_id_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(storage.AssetError, match="pip install huggingface_hub"):
        checkpoints.load("somebody/some-model", CPU)
