"""LoRA against `peft`, on the same weights: what it computes, what its gradients are, what merging makes, what files hold."""

import json
from pathlib import Path

import model_peers
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from course_lib import checkpoints
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenArray
from course_lib.finetuning import LoraConfig, add_lora, at_scale, load_adapter, merge, save_adapter, unmerge
from course_lib.finetuning.lora import TARGETS, LoraLinear
from course_lib.inference import generate
from course_lib.inference.fused_step import FusedStep
from course_lib.pretraining import PretrainingConfig, Trainer

IDS = torch.randint(60, (2, 9), generator=torch.Generator().manual_seed(0))
CASES = [(4, 6.0, ("q_proj", "v_proj")), (3, 3.0, TARGETS), (5, 20.0, ("k_proj", "o_proj", "up_proj"))]


@pytest.fixture
def pair(smollm2, tmp_path) -> tuple[TransformerLM, torch.nn.Module, Path]:
    """Our model, and `transformers`' with the same weights; and a folder."""
    theirs = model_peers.randomised(model_peers.llama())
    ours, _ = checkpoints.load(model_peers.save(theirs, smollm2, tmp_path / "model"), "cpu", torch.float32)
    return ours, theirs, tmp_path / "adapter"


def adapted_by_peft(model: torch.nn.Module, rank: int, alpha: float, targets: tuple[str, ...]) -> peft.PeftModel:
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 5
    return adapted


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


@pytest.mark.parametrize("case", CASES, ids=lambda case: "+".join(case[2]) if len(case[2]) < 7 else "all")
def test_an_adapter_of_pefts_gives_its_logits_gradients_and_merged_weights(pair, case):
    ours, theirs, folder = pair
    adapted = adapted_by_peft(theirs, *case)
    adapted.save_pretrained(folder)
    load_adapter(ours, folder)
    logits = adapted(IDS).logits
    torch.testing.assert_close(ours(IDS), logits, atol=1e-5, rtol=1e-5)

    loss_of(logits).backward()
    loss_of(ours(IDS)).backward()
    their_norm = torch.stack([p.grad.norm() for p in adapted.parameters() if p.grad is not None])
    our_norm = torch.stack([p.grad.norm() for p in ours.parameters() if p.grad is not None])
    torch.testing.assert_close(our_norm.sort().values, their_norm.sort().values, atol=1e-6, rtol=1e-4)

    merge(ours)
    merged = adapted.merge_and_unload()
    layer, their_layer = ours.blocks[1], merged.model.layers[1]
    theirs_joined = [getattr(their_layer.self_attn, f"{name}_proj").weight for name in "qkv"]
    torch.testing.assert_close(layer.attention.qkv.weight, torch.cat(theirs_joined), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(layer.feed_forward.down.weight, their_layer.mlp.down_proj.weight, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours(IDS), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "+".join(case[2]) if len(case[2]) < 7 else "all")
def test_peft_reads_what_is_saved(pair, case):
    ours, theirs, folder = pair
    torch.manual_seed(2)
    add_lora(ours, LoraConfig(*case))
    for parameter in ours.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) / 5
    save_adapter(ours, folder)
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    adapted = peft.PeftModel.from_pretrained(theirs, folder)
    torch.testing.assert_close(adapted(IDS).logits, ours(IDS), atol=1e-5, rtol=1e-5)


def test_training_begins_at_the_model_as_it_is_and_changes_the_small_matrices_alone(pair):
    ours, _, _ = pair
    before = ours(IDS).detach()
    weights = {name: parameter.clone() for name, parameter in ours.named_parameters()}
    add_lora(ours, LoraConfig(rank=2))
    assert torch.equal(ours(IDS), before)
    trained = [name for name, parameter in ours.named_parameters() if parameter.requires_grad]
    assert all(".down." in name or ".up." in name for name in trained)
    assert len(trained) == len(ours.blocks) * 2 * 2  # A and B of queries and of values
    optimizer = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(ours(IDS)).backward()
        optimizer.step()
    assert loss_of(ours(IDS)) < loss_of(before)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in ours.named_parameters() if name in weights)


def test_merging_makes_the_model_plain_and_unmerging_takes_it_back(pair):
    ours, theirs, folder = pair
    before = ours.blocks[0].attention.qkv.weight.clone()
    adapted_by_peft(theirs, 4, 8.0, ("q_proj", "v_proj", "down_proj")).save_pretrained(folder)
    load_adapter(ours, folder)
    logits, written = ours(IDS), list(generate(ours, [5, 6, 7], 8))
    assert not FusedStep.fits(ours)
    adapter = merge(ours)
    assert FusedStep.fits(ours) and list(generate(ours, [5, 6, 7], 8)) == written
    torch.testing.assert_close(ours(IDS), logits, atol=1e-5, rtol=1e-5)
    unmerge(ours, adapter)
    torch.testing.assert_close(ours.blocks[0].attention.qkv.weight, before, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours(IDS), logits, atol=1e-5, rtol=1e-5)


def test_the_adapter_counts_as_often_as_is_asked_and_once_again_afterwards(pair):
    ours, theirs, folder = pair
    plain = ours(IDS)
    adapted_by_peft(theirs, *CASES[0]).save_pretrained(folder)
    load_adapter(ours.train(), folder)
    once = ours(IDS)
    with at_scale(ours, 0.0):
        torch.testing.assert_close(ours(IDS), plain, atol=1e-5, rtol=1e-5)
        assert not ours.training
    with pytest.raises(KeyboardInterrupt), at_scale(ours, 2.0):
        assert not torch.allclose(ours(IDS), once, atol=1e-3)
        raise KeyboardInterrupt
    assert ours.training and torch.equal(ours(IDS), once)


def test_the_trainer_trains_an_adapter(pair, tmp_path):
    ours, _, _ = pair
    add_lora(ours, LoraConfig(rank=2))
    text = TokenArray(IDS.flatten().repeat(20).numpy(), 60)
    config = PretrainingConfig(n_steps=4, batch_size=2, warmup=0, context_length=8, evaluate_every=None)
    reports = list(Trainer(ours, text, None, config, tmp_path / "run"))
    assert reports[-1].loss < reports[0].loss


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rank": 0}, "rank must be positive"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"targets": ("q_proj", "c_attn")}, "targets must be some of q_proj, "),
        ({"targets": ()}, "targets must be some of"),
        ({"targets": "q_proj"}, "targets should hold strings"),
    ],
)
def test_nonsense_is_named(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        LoraConfig(**change)


def test_what_cannot_be_adapted_is_said(pair):
    ours, _, folder = pair
    with pytest.raises(ValueError, match="no adapter to save"):
        save_adapter(ours, folder)
    add_lora(ours, LoraConfig())
    with pytest.raises(ValueError, match="has an adapter already"):
        add_lora(ours, LoraConfig())
    with pytest.raises(ValueError, match="the model has no gate_proj; it has down_proj, k_proj, "):
        add_lora(ungated_model(), LoraConfig(targets=TARGETS))


def ungated_model() -> TransformerLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "d_model": 8, "n_layers": 2, "n_heads": 2, "d_ff": 12, "context_length": 16}
    return TransformerLM(TransformerConfig(**shape, feed_forward="relu2", qk_norm="head"))


def test_a_network_without_a_gate_is_adapted_too(tmp_path):
    model, base = ungated_model(), ungated_model()
    add_lora(model, LoraConfig(2, 3.0, ("up_proj", "k_proj")))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    save_adapter(model, tmp_path)
    load_adapter(base, tmp_path)
    logits = model(IDS)
    assert torch.equal(base(IDS), logits) and not torch.allclose(ungated_model()(IDS), logits, atol=0.01)
    merge(model)
    torch.testing.assert_close(model(IDS), logits, atol=1e-5, rtol=1e-5)


def test_other_kinds_of_adapters_and_files_that_do_not_fit_are_named(pair):
    ours, theirs, folder = pair
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    peft.get_peft_model(theirs, config).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"not plain LoRA: \{'use_dora': True\}"):
        load_adapter(ours, folder)
    add_lora(ours, LoraConfig(rank=2))
    save_adapter(ours, folder)
    merge(ours)
    weights = load_file(folder / "adapter_model.safetensors")
    name = sorted(weights)[0]
    save_file({n: w for n, w in weights.items() if n != name}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=f"{name} are missing, extra or misshapen"):
        load_adapter(ours, folder)
    assert not any(isinstance(module, LoraLinear) for module in ours.modules())  # nothing is left of the attempt


@pytest.mark.parametrize("harm", ["cut", "no JSON", {"r": None}, {"r": "8"}, {"lora_alpha": "x"}, {"r": 2.5}])
def test_damaged_files_are_named_and_the_model_stays_plain(pair, harm):
    ours, _, folder = pair
    add_lora(ours, LoraConfig(rank=2))
    save_adapter(ours, folder)
    merge(ours)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif harm == "no JSON":
        config.write_text("{")
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | harm))
    with pytest.raises(ValueError, match=str(folder)):
        load_adapter(ours, folder)
    assert not any(isinstance(module, LoraLinear) for module in ours.modules())


@pytest.mark.parametrize("targets", [None, "all-linear", [], ["q_proj", "c_attn"]])
def test_targets_that_are_no_list_of_known_ones_are_named(pair, targets):
    ours, _, folder = pair
    add_lora(ours, LoraConfig(rank=2))
    save_adapter(ours, folder)
    merge(ours)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": targets}))
    with pytest.raises(ValueError, match="known are q_proj, "):
        load_adapter(ours, folder)
