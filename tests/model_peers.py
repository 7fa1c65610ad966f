"""Small models of random weights of today's open families, made and saved by `transformers`."""

import json
from pathlib import Path

import torch
import transformers

from course_lib.tokenization import save_tokenizer

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2_SMALL = {"vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def llama(**changes) -> transformers.PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL | {"rope_theta": 500.0} | changes))


def mistral(**changes) -> transformers.PreTrainedModel:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL | {"sliding_window": 5} | changes))


def qwen3(**changes) -> transformers.PreTrainedModel:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SMALL | {"head_dim": 16} | changes))


def olmo2(**changes) -> transformers.PreTrainedModel:
    return transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**SMALL | {"pad_token_id": None} | changes))


def gemma3(**changes) -> transformers.PreTrainedModel:
    own = {
        "num_hidden_layers": 7,
        "head_dim": 16,
        "sliding_window": 5,
        "query_pre_attn_scalar": 24,
        "pad_token_id": None,
    }
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SMALL | own | changes))


def gpt2(**changes) -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(**GPT2_SMALL | changes)
    return transformers.GPT2LMHeadModel(config)


def bert() -> transformers.PreTrainedModel:
    sizes = {name: size for name, size in SMALL.items() if name != "num_key_value_heads"}
    return transformers.BertModel(transformers.BertConfig(**sizes))


def randomised(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Zero biases and unit norms would hide a wrong order."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save(model: transformers.PreTrainedModel, smollm2, folder: Path, **options) -> Path:
    """Save a model as its family does, beside the tokenizer of `smollm2`."""
    model.save_pretrained(folder, **options)
    save_tokenizer(smollm2[1], folder)
    return folder


def rewrite_config(folder: Path, changes: dict) -> None:
    """Change fields of a `config.json`; the value None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {field: value for field, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
