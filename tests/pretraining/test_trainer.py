"""The training loop in one process: what it computes, what it keeps, and that nothing is lost when it is stopped or killed."""

import json
import math
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_runs import Run, kill_at_random
from on_meta import OnMeta
from small_corpus import write_small_corpus
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM, accounting
from course_lib.architecture.accounting import step_flops
from course_lib.corpora import Batches, TokenShards, write_shards
from course_lib.devices import matmul_peak, pick_device, seed_everything
from course_lib.pretraining import (
    PretrainingConfig,
    Trainer,
    bits_per_byte,
    evaluate,
    list_checkpoints,
    load_model,
    optim,
    read_history,
)
from course_lib.pretraining.trainer import next_token_loss
from course_lib.tokenization import train_bpe

MODEL = TransformerConfig(
    vocab_size=266, d_model=24, n_layers=2, n_heads=3, d_ff=40, context_length=16, feed_forward="relu2", qk_norm="head"
)
CONFIG = PretrainingConfig(n_steps=12, batch_size=8, evaluate_every=4, checkpoint_every=3)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def validation(tmp_path_factory) -> TokenShards:
    return write_small_corpus(tmp_path_factory.mktemp("validation") / "shards", n_texts=3, seed=1)


def new_model(seed: int = 0, config: TransformerConfig = MODEL) -> TransformerLM:
    seed_everything(seed)
    return TransformerLM(config)


def losses(trainer: Trainer) -> list[float]:
    """Train to the end, and return the loss of each step."""
    assert all(report.step == step for step, report in enumerate(trainer, start=trainer.step + 1))
    return [report.loss for report in trainer.history]


# ---------------------------------------------------------------- what a step computes


def test_the_loop_is_the_one_that_lesson_04_builds_by_hand(train):
    """One step after the other with torch's own AdamW and clipping."""
    config = replace(CONFIG, muon_learning_rate=None, weight_decay=0.0, warmup=4)
    trainer = Trainer(new_model(), train, None, config)
    found = losses(trainer)

    model = new_model()
    group = {key: value for key, value in trainer.optimizers[0].param_groups[0].items() if key in ("betas", "eps")}
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0, **group)
    batches = Batches(train, 16, 8, seed=0)
    for step, report in enumerate(trainer.history):
        optimizer.param_groups[0]["lr"] = 3e-3 * optim.warmup_stable_decay(step, 12, 4, config.decay)
        ids, targets = map(torch.as_tensor, batches[step])
        loss = F.cross_entropy(model(ids).transpose(1, 2), targets)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert report.loss == pytest.approx(loss.item(), abs=1e-5)
        assert report.gradient_norm == pytest.approx(norm.item(), rel=1e-3)
        assert report.learning_rate == pytest.approx(optimizer.param_groups[0]["lr"])
    assert found[-1] < found[0] - 0.1  # and something is learned


@pytest.mark.parametrize(
    "change",
    [{"accumulation": 4}, {"compile": "aot_eager"}, {"parallel": "fsdp"}],
    ids=lambda change: next(iter(change)),
)
def test_how_the_work_is_done_does_not_change_the_result(train, change):
    plain, changed = (Trainer(new_model(), train, None, config) for config in (CONFIG, replace(CONFIG, **change)))
    assert losses(changed) == pytest.approx(losses(plain), abs=1e-5)
    for one, other in zip(changed.history, plain.history, strict=True):
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)


def test_accumulation_never_computes_more_than_a_micro_batch_at_once(train):
    model, sizes = new_model(), []
    model.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
    losses(Trainer(model, train, None, replace(CONFIG, n_steps=2, accumulation=4)))
    assert sizes == [2] * 8


def test_mixed_precision_keeps_the_weights_in_float32(train):
    model, dtypes = new_model(), set()
    model.blocks[0].feed_forward.up.register_forward_hook(lambda _module, _args, out: dtypes.add(out.dtype))
    found = losses(Trainer(model, train, None, replace(CONFIG, dtype="bfloat16")))
    assert dtypes == {torch.bfloat16} and {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert found == pytest.approx(losses(Trainer(new_model(), train, None, CONFIG)), abs=0.05)


def test_every_tensor_of_a_step_lives_on_the_models_device():
    with FakeTensorMode():
        with torch.device("meta"):
            model = TransformerLM(MODEL)
            ids = torch.zeros(2, 9, dtype=torch.long)
        with OnMeta():
            next_token_loss(model, ids, ids).backward()


def test_a_report_says_how_far_and_how_fast(train):
    trainer = Trainer(new_model(), train, None, replace(CONFIG, schedule="cosine", warmup=2))
    losses(trainer)
    for report, before in zip(trainer.history, [None, *trainer.history], strict=False):
        seconds = report.seconds - (before.seconds if before else 0)
        assert report.n_steps == 12 and report.tokens == report.step * 8 * 16
        assert report.tokens_per_second == pytest.approx(8 * 16 / seconds)
        assert report.mfu == pytest.approx(step_flops(MODEL, 8, 16) / seconds / trainer.peak)
    assert trainer.peak == pytest.approx(matmul_peak(pick_device(), torch.float32))
    rates = [report.learning_rate for report in trainer.history]
    assert max(rates) <= 3e-3 and rates[0] < max(rates) > rates[-1]


def test_a_steps_flops_are_six_a_parameter_and_token_and_attention():
    """PaLM (arXiv 2204.02311), appendix B: 6 N + 12 L H Q T a token, where N leaves out what is only looked up."""
    config = replace(MODEL, vocab_size=5000, d_model=96, d_ff=384, context_length=64, qk_norm=None)
    parts = accounting.parameter_count(config)
    multiplied = sum(parts.values()) - parts["norms"]  # the tied embedding is multiplied with, as the unembedding
    a_token = 6 * multiplied + 12 * 2 * 96 * 64
    assert step_flops(config, 5, 64) == a_token * 5 * 64


# ---------------------------------------------------------------- evaluation


def test_evaluation_is_the_mean_over_every_token_of_the_split(validation):
    model, ids = new_model(), torch.as_tensor(validation[0 : len(validation)].astype("int64"))
    summed = 0.0
    for start in range(0, len(ids) - 1, 16):
        window = ids[start : start + 17]
        summed += F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="sum").item()
    assert evaluate(model, validation, 16) == pytest.approx(summed / (len(ids) - 1), rel=1e-5)


def test_evaluation_leaves_the_model_as_it_was(validation):
    model = new_model(config=replace(MODEL, dropout=0.5)).train()
    assert evaluate(model, validation, 16) == evaluate(model, validation, 16)  # nothing drops out
    assert model.training and all(weight.grad is None for weight in model.parameters())


def test_an_untrained_model_needs_the_bits_of_a_uniform_guess(tmp_path):
    """Bytes as tokens: log2 of the vocabulary a byte, whatever the text is."""
    text = "All the world's a stage. " * 3
    tokenizer = train_bpe([text], 257)
    shards = write_shards([text], tokenizer, tmp_path / "shards")
    assert bits_per_byte(math.log(257), shards) == pytest.approx(math.log2(257) * (len(text) + 1) / len(text))


def test_validation_comes_when_it_is_due_and_at_the_end(train, validation):
    trainer = Trainer(new_model(), train, validation, replace(CONFIG, n_steps=10))
    losses(trainer)
    assert [report.step for report in trainer.history if report.validation_loss is not None] == [4, 8, 10]
    assert trainer.history[-1].validation_loss == evaluate(trainer.model, validation, 16)


# ---------------------------------------------------------------- stopping, saving, going on


def test_break_stops_and_iterating_again_goes_on(train):
    trainer = Trainer(new_model(), train, None, CONFIG)
    for report in trainer:
        if report.step == 5:
            break
    assert trainer.step == 5 == len(trainer.history)
    assert losses(trainer) == losses(Trainer(new_model(), train, None, CONFIG))
    assert list(trainer) == []


def test_a_new_trainer_on_the_folder_goes_on_bit_for_bit(train, validation, tmp_path):
    config = replace(CONFIG, n_steps=10)
    whole = Trainer(new_model(config=replace(MODEL, dropout=0.1)), train, validation, config)
    whole_losses = losses(whole)
    for seed, stop in enumerate((5, 8)):
        trainer = Trainer(new_model(seed, replace(MODEL, dropout=0.1)), train, validation, config, tmp_path)
        for report in trainer:
            if report.step == stop:
                break
    resumed = Trainer(new_model(99, replace(MODEL, dropout=0.1)), train, validation, config, tmp_path)
    assert resumed.step == 6  # 8 steps were made, and a checkpoint every 3
    assert losses(resumed) == whole_losses
    assert [r.validation_loss for r in resumed.history] == [r.validation_loss for r in whole.history]
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))
    assert list(Trainer(whole.model, train, validation, config, tmp_path)) == []  # finished: nothing is left to do
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in log] == whole_losses and log[-1] == vars(resumed.history[-1])


def test_checkpoints_hold_models_that_load(train, tmp_path):
    trainer = Trainer(new_model(), train, None, replace(CONFIG, n_steps=10), tmp_path)
    weights = {0: [weight.clone() for weight in trainer.model.parameters()]}
    for report in trainer:
        weights[report.step] = [weight.clone() for weight in trainer.model.parameters()]
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"step-{step:06d}" for step in (0, 3, 6, 9, 10)]
    for path, step in zip(list_checkpoints(tmp_path), (0, 3, 6, 9, 10), strict=True):
        model = load_model(path)
        assert model.config == MODEL and not model.training
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights[step], strict=True))
        assert [report.step for report in read_history(path)] == list(range(1, step + 1))
        assert not list(path.glob("*.pt")) and not list(path.glob("*.pkl"))


def test_save_now_saves_where_one_stands(train, tmp_path):
    trainer = Trainer(new_model(), train, None, replace(CONFIG, checkpoint_every=None), tmp_path)
    for report in trainer:
        if report.step == 5:
            break
    assert trainer.save_now().name == "step-000005" == trainer.save_now().name
    assert not list(tmp_path.glob(".step*"))
    assert Trainer(new_model(1), train, None, CONFIG, tmp_path).step == 5
    with pytest.raises(ValueError, match="no folder"):
        Trainer(new_model(), train, None, CONFIG).save_now()


def test_what_does_not_fit_is_named(train, tmp_path):
    losses(Trainer(new_model(), train, None, replace(CONFIG, n_steps=3), tmp_path / "run"))
    with pytest.raises(ValueError, match="n_steps 3 there and 12 here, seed 0 there and 1 here"):
        Trainer(new_model(), train, None, replace(CONFIG, seed=1), tmp_path / "run")
    with pytest.raises(ValueError, match=r"model\.vocab_size 266 there and 300 here"):
        other = new_model(config=replace(MODEL, vocab_size=300))
        Trainer(other, train, None, replace(CONFIG, n_steps=3), tmp_path / "run")
    with pytest.raises(ValueError, match="the text has 266 tokens, the model 100"):
        Trainer(new_model(config=replace(MODEL, vocab_size=100)), train, None, CONFIG)
    with pytest.raises(ValueError, match="frozen"):
        Trainer(load_model(list_checkpoints(tmp_path / "run")[0]), train, None, CONFIG)
    oldest = list_checkpoints(tmp_path / "run")[0]
    for file in oldest.glob("optimizer*"):
        file.unlink()
    oldest.rename(tmp_path / "run" / "step-999999")
    with pytest.raises(ValueError, match="only the weights are kept"):
        Trainer(new_model(), train, None, replace(CONFIG, n_steps=3), tmp_path / "run")


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_never_leaves_half_a_step(train):
    """An interrupt that comes while the optimizers write waits until the step is whole."""
    trainer = Trainer(new_model(), train, None, CONFIG)
    write = trainer.optimizers[0].step

    def interrupted_write():
        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
        write()

    trainer.optimizers[0].step = interrupted_write
    with pytest.raises(KeyboardInterrupt):
        list(trainer)
    assert trainer.step == 5
    assert losses(trainer) == losses(Trainer(new_model(), train, None, CONFIG))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_trains_in_a_thread_too(train):
    trainer, found = Trainer(new_model(), train, None, CONFIG), []
    thread = threading.Thread(target=lambda: found.extend(losses(trainer)))
    thread.start()
    thread.join()
    assert found == losses(Trainer(new_model(), train, None, CONFIG))


def test_a_killed_run_goes_on_bit_for_bit(train, tmp_path):
    """benchmarks/pretraining/kills.py does the same 20 times."""
    config = replace(CONFIG, n_steps=40, checkpoint_every=2)
    whole, killed = (Run(MODEL, config, train.folder, tmp_path / name, n_threads=1) for name in ("whole", "killed"))
    whole.finish()
    kills = list(kill_at_random(killed, n_kills=4, most_steps=8, seed=0))
    assert any(kill.saved for kill in kills)
    killed.finish()
    assert_same_result(whole.folder, killed.folder)


def assert_same_result(folder: Path, other: Path) -> None:
    last, other_last = list_checkpoints(folder)[-1], list_checkpoints(other)[-1]
    for kind in ("model", "optimizer"):
        assert (last / f"{kind}.safetensors").read_bytes() == (other_last / f"{kind}.safetensors").read_bytes()
    assert [report.loss for report in read_history(last)] == [report.loss for report in read_history(other_last)]
