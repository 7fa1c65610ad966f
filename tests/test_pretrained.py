"""Real and random checkpoints against `transformers` on the same weights."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from course_lib import assets, pretrained
from course_lib.generation import chat_prompt

TEXT = "The cat sat on the mat. In 1492, Columbus sailed — naïvely — from Spain.\n\ndef f(x):\n    return x + 1\n"


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """`transformers`' Llama and tokenizer, read by its own reader from the same file."""
    gguf = assets.fetch("smollm2-135m-instruct")
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


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


def llama(**changes) -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, rope_theta=500.0, **changes,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_positions=32)
    return transformers.GPT2LMHeadModel(config)


def save(model: transformers.PreTrainedModel, smollm2, folder):
    model.save_pretrained(folder)
    smollm2[1].save(folder)
    return folder


@pytest.mark.parametrize("make", [llama, lambda: llama(tie_word_embeddings=True), lambda: llama(head_dim=16), gpt2])
@torch.inference_mode()
def test_random_checkpoints_equal_transformers(make, smollm2, tmp_path):
    torch.manual_seed(0)
    theirs = make().eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)  # zero biases and unit norms would hide a wrong order
    ours, _ = pretrained.load(save(theirs, smollm2, tmp_path), dtype=torch.float32)
    ids = torch.randint(60, (2, 11))
    expected = theirs(ids).logits
    torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=1e-4)
    cache = ours.new_cache(2, 11)
    cached = torch.cat([ours(part, cache) for part in ids.split([4, 1, 6], dim=1)], dim=1)
    torch.testing.assert_close(cached, expected, atol=1e-4, rtol=1e-4)


def test_dtype_is_as_asked(smollm2, tmp_path):
    model, _ = pretrained.load(save(gpt2(), smollm2, tmp_path), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "type 'mamba'; supported are llama, gpt2"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "'llama3'"),
    ],
)
def test_unsupported_configurations_are_named(change, message, smollm2, tmp_path):
    folder = save(llama(), smollm2, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        pretrained.load(folder)


def test_missing_extra_and_misshapen_tensors_are_named(smollm2, tmp_path):
    folder = save(llama(), smollm2, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    tensors["model.layers.0.surprise"] = torch.zeros(2)
    tensors["model.norm.weight"] = torch.ones(33)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:
        pretrained.load(folder)
    for line in (
        "blocks.1.feed_forward.down.weight: wanted (32, 48), got none",
        "model.layers.0.surprise: wanted none, got (2,)",
        "final_norm.weight: wanted (32,), got (33,)",
    ):
        assert line in str(error.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"neither a known asset \(.*smollm2.*\) nor a folder"):
        pretrained.load(tmp_path / "nothing")


def test_an_interrupted_conversion_leaves_nothing_behind(monkeypatch, tmp_path):
    gguf = assets.fetch("smollm2-135m-instruct")
    monkeypatch.setattr(assets, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(assets, "fetch", lambda _name: gguf)

    def full_disk(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        pretrained.load("smollm2-135m-instruct")
    assert not [path for path in (tmp_path / "converted").iterdir() if path.is_dir()]
