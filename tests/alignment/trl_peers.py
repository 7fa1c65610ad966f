"""A policy and a reference of `transformers`, small and random, for `trl`'s trainers, and what ours are held equal to."""

import warnings
from pathlib import Path

import datasets
import torch
import transformers
from chat_templates import tokenizer_pair
from torch import Tensor
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

OPTIONS = {"use_cpu": True, "bf16": False, "report_to": "none"}
PROMPTS = ["Hello my", "Hi there, good old friend"]
PAIRS = [
    (PROMPTS[0], " dear", " other and longer one"),
    (PROMPTS[1], " and so on", " no"),
    (PROMPTS[0], " a", " b c d"),
]


def _start(kind: type, config: type, folder: Path, data: list[dict[str, str]], options: dict, **more):
    """Return a trainer of a small random policy in evaluation mode, with a reference of other weights."""
    _, tokenizer = tokenizer_pair("mistral", folder)
    tokenizer.pad_token = "</s>"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    path = folder / "model"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(path)
    model = transformers.LlamaForCausalLM.from_pretrained(path)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # trl asks transformers by old names
        arguments = config(str(folder / "trl"), **OPTIONS, **options)
        dataset = datasets.Dataset.from_list(data)
        trainer = kind(model, args=arguments, train_dataset=dataset, processing_class=tokenizer, **more)
    for weight in (*trainer.model.parameters(), *trainer.ref_model.parameters()):
        weight.data = torch.randn(weight.shape) / 3
    trainer.model.eval()
    return trainer


def grpo_trainer(folder: Path, rewards: Tensor, **options) -> GRPOTrainer:
    """A `GRPOTrainer` that gives the samples of PROMPTS the `rewards` (prompt, sample) of each prompt."""
    sizes = {"num_generations": rewards.shape[1], "per_device_train_batch_size": rewards.numel()}
    options = {"max_completion_length": 5, "beta": 0.1, **sizes, **options}
    data = [{"prompt": prompt} for prompt in PROMPTS]
    return _start(GRPOTrainer, GRPOConfig, folder, data, options, reward_funcs=lambda **_: rewards.flatten().tolist())


def dpo_trainer(folder: Path, **options) -> DPOTrainer:
    data = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in PAIRS]
    return _start(DPOTrainer, DPOConfig, folder, data, options)


def log_probs_of(model: torch.nn.Module, ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The log-probability (row, position) of each token but the first, in whose place there is 0."""
    logits = model(ids, attention_mask=attention_mask).logits[:, :-1]
    found = logits.log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return torch.nn.functional.pad(found, (1, 0))


def gradients(model: torch.nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))
