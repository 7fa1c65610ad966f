"""Packed examples: each has what it has alone. Training on them: in one process or many, in one go or in parts."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora.packing import IGNORED, places, same_document
from course_lib.finetuning import Example, PackedExamples, answer_loss, score_answers, train_last_blocks
from course_lib.inference import generate
from course_lib.pretraining import PretrainingConfig, Trainer, evaluate

MODEL = TransformerConfig(vocab_size=40, d_model=16, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=24, context_length=32)
KINDS = {
    "rope": {},
    "window": {"window": 4, "full_attention_every": 2, "window_rope_theta": 100.0},
    "learned": {"positions": "learned", "norm": "layernorm", "bias": True, "feed_forward": "gelu"},
    "sinusoidal": {"positions": "sinusoidal", "scaled_embeddings": True},
    "alibi": {"positions": "alibi", "tied_embeddings": False},
}


def new_model(**changes) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(replace(MODEL, **changes)).eval()


def new_examples(n: int = 12, seed: int = 0) -> list[Example]:
    """Prompts of 2 to 9 tokens and answers of 1 to 6."""
    generator = torch.Generator().manual_seed(seed)
    lengths = zip(
        *(torch.randint(*span, (n,), generator=generator).tolist() for span in ((2, 10), (1, 7))), strict=True
    )
    return [
        Example(tuple(torch.randint(40, (p + a,), generator=generator).tolist()), (False,) * p + (True,) * a)
        for p, a in lengths
    ]


def alone(model: TransformerLM, example: Example) -> torch.Tensor:
    """The summed loss of one example by itself, by the definition."""
    ids = torch.tensor([example.ids])
    losses = F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="none")
    return losses[torch.tensor(example.trained[1:])].sum()


def assert_as_alone(kind: str, rows: PackedExamples, examples: list[Example]) -> None:
    """The summed loss of all rows and its gradients are those of the examples, each by itself."""
    together, apart = new_model(**KINDS[kind]), new_model(**KINDS[kind])
    loss = answer_loss(together, *rows.parts, reduction="sum")
    loss.backward()
    expected = sum(alone(apart, example) for example in examples)
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-6)
    for weight, same in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, same.grad, atol=1e-5, rtol=1e-5)
    mean = answer_loss(together, *rows.parts)
    torch.testing.assert_close(mean, expected / sum(sum(example.trained) for example in examples))


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_row_each_example_has_the_loss_and_gradients_that_it_has_alone(kind):
    examples = new_examples()
    rows = PackedExamples(examples, 32, 40)
    assert len(rows.parts[0]) < len(examples) / 2  # several share a row
    assert_as_alone(kind, rows, examples)
    assert rows.n_targets == sum(sum(example.trained) for example in examples)


@pytest.mark.parametrize("kind", ["rope", "learned", "sinusoidal"])
def test_examples_that_share_a_prompt_have_the_loss_and_gradients_that_they_have_alone(kind):
    prompt = (3, 1, 4, 1, 5)
    examples = [Example(prompt + e.ids, (False,) * 5 + e.trained) for e in new_examples()]
    examples.append(Example((*prompt, 9), (False,) * 5 + (True,)))  # its only target comes straight after
    rows, unshared = (PackedExamples(examples, 32, 40, shares_prompt=shares) for shares in (True, False))
    assert (rows.parts[2] == -2).sum() == 4 * len(rows.parts[0])  # the prompt but for its last token
    assert len(rows.parts[0]) < len(unshared.parts[0])
    assert_as_alone(kind, rows, examples)
    shared, whole = (score_answers(new_model(**KINDS[kind]), parts) for parts in (rows, unshared))
    assert torch.equal(shared.exact, whole.exact)
    torch.testing.assert_close(shared.nats, whole.nats)


@pytest.mark.parametrize("kind", ["window", "alibi"])
def test_a_shared_prompt_would_be_too_far_away_for_a_window_or_alibi(kind):
    examples = [Example((3, 1, 4, last), (False, False, False, True)) for last in range(20)]
    with pytest.raises(ValueError, match="along the row"):
        answer_loss(new_model(**KINDS[kind]), *PackedExamples(examples, 32, 40, shares_prompt=True).parts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_in_a_row_are_those_alone(kind):
    examples, model = new_examples(), new_model(**KINDS[kind])
    rows = PackedExamples(examples, 32, 40)
    ids, _, documents = rows.parts
    logits = model(ids, mask=same_document(documents), positions=places(documents))
    for number, example in enumerate(examples):
        by_itself = model(torch.tensor([example.ids]))[0]
        torch.testing.assert_close(logits[documents == number], by_itself, atol=1e-5, rtol=1e-5)


def test_scores_are_those_of_writing_each_answer_greedily():
    model, end = new_model(), 7
    model.embedding.weight.data *= 8  # far from all logits equal
    prompts = [example.ids[:3] for example in new_examples(20)]
    written = [[*generate(model, prompt, 4, stop_ids=frozenset({end})), end] for prompt in prompts]
    written = [answer[:4] for answer in written]  # cut off, or ended in time
    wrong = [[*answer[:-1], (answer[-1] + 1) % 40] for answer in written]
    examples = [
        Example((*prompt, *answer), (False,) * 3 + (True,) * len(answer))
        for answers in (written, wrong)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    scores = score_answers(model, PackedExamples(examples, 32, 40))
    assert scores.exact.tolist() == [True] * 20 + [False] * 20
    torch.testing.assert_close(scores.nats, torch.stack([alone(model, example) for example in examples]).detach())
    assert scores.n_tokens.tolist() == [sum(example.trained) for example in examples]


def test_evaluation_is_the_mean_over_all_answers_tokens():
    examples, model = new_examples(), new_model()
    rows = PackedExamples(examples, 32, 40)
    expected = sum(alone(model, example) for example in examples) / rows.n_targets
    assert score_answers(model, rows).nats_a_token == pytest.approx(expected.item(), rel=1e-5)
    assert evaluate(model, rows, 32, loss=answer_loss) == pytest.approx(expected.item(), rel=1e-5)


CONFIG = PretrainingConfig(n_steps=6, batch_size=4, learning_rate=3e-3, muon_learning_rate=None)


def train(rows: PackedExamples, **changes) -> tuple[list[float], TransformerLM]:
    model = new_model()
    trainer = Trainer(model, rows, rows, replace(CONFIG, **changes), loss=answer_loss)
    return [report.loss for report in trainer], model


def test_micro_batches_with_more_and_fewer_answers_count_by_their_tokens():
    """The mean of means would weigh a short answer's tokens more: so did `transformers` until October 2024."""
    rows = PackedExamples(new_examples(), 16, 40)
    short = {"context_length": 16}
    whole, in_parts = train(rows, **short)[0], train(rows, **short, accumulation=4)[0]
    assert whole == pytest.approx(in_parts, rel=1e-5)
    ids, targets, documents = Trainer(new_model(), rows, None, replace(CONFIG, **short), loss=answer_loss).batches[0]
    counts = (targets != IGNORED).sum(dim=1)
    assert counts.unique().numel() > 1  # else nothing was tested
    assert whole[0] == pytest.approx(answer_loss(new_model(), ids, targets, documents).item(), rel=1e-5)


def test_every_example_comes_once_an_epoch_and_the_model_learns_them():
    rows = PackedExamples(new_examples(), 32, 40)
    losses, model = train(rows, n_steps=300, batch_size=2)
    assert score_answers(model, rows).exact.all() and losses[-1] < 0.1 * losses[0]


def test_a_run_on_other_examples_is_another_run(tmp_path):
    rows, others = (PackedExamples(new_examples(seed=seed), 32, 40) for seed in (0, 1))
    for _ in Trainer(new_model(), rows, None, CONFIG, tmp_path, loss=answer_loss):
        pass
    with pytest.raises(ValueError, match="holds another run: train_fingerprint"):
        Trainer(new_model(), others, None, CONFIG, tmp_path, loss=answer_loss)


def test_what_is_not_all_of_the_model_has_no_utilisation():
    rows = PackedExamples(new_examples(), 32, 40)
    trainer = Trainer(new_model(), rows, None, CONFIG, loss=answer_loss)
    assert next(iter(trainer)).mfu is None


def test_only_the_last_blocks_are_trained():
    rows, model, before = PackedExamples(new_examples(), 32, 40), new_model(), new_model()
    train_last_blocks(model, 1)
    for _ in Trainer(model, rows, None, CONFIG, loss=answer_loss):
        pass
    pairs = zip(model.named_parameters(), before.parameters(), strict=True)
    moved = {name for (name, weight), old in pairs if not torch.equal(weight, old)}
    assert moved == {name for name, _ in model.named_parameters() if name.startswith(("blocks.2.", "final_norm"))}
    with pytest.raises(ValueError, match="n_blocks must be at least 0 and at most 3, not 4"):
        train_last_blocks(model, 4)


@pytest.mark.parametrize(
    ("examples", "length", "message"),
    [
        ([], 32, "there is no example"),
        (new_examples(), 8, r"example \d+ has \d+ tokens and does not fit into a row of 8"),
        (new_examples(), 0, "context_length must be positive"),
    ],
)
def test_examples_that_do_not_fit_are_refused(examples, length, message):
    with pytest.raises(ValueError, match=message):
        PackedExamples(examples, length, 40)


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="the rows have 16 tokens, not 32: give that context_length"):
        Trainer(new_model(), PackedExamples(new_examples(), 16, 40), None, CONFIG, loss=answer_loss)
