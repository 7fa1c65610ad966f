"""A batch of texts against each of them alone, in every kind of model; what is drawn; and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import Rollouts, Sampling, generate, roll_out
from course_lib.inference.blocked import blocked

CONFIG = TransformerConfig(vocab_size=50, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=40, context_length=32)
KINDS = {
    "llama": {},
    "shakespeare": {"feed_forward": "relu2", "qk_norm": "head", "n_kv_heads": None},
    "window": {"window": 4},
    "alibi": {"positions": "alibi"},
    "learned": {"positions": "learned", "tied_embeddings": False, "bias": True},
    "sinusoidal": {"positions": "sinusoidal", "norm": "layernorm", "norm_position": "post"},
}
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9], [3, 2]]
SAMPLED = Sampling(temperature=1.0, top_p=0.9)


@pytest.fixture(params=KINDS)
def model(request):
    seed_everything(0)
    model = TransformerLM(replace(CONFIG, **KINDS[request.param])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)  # so that the likeliest token leads by more than rounding
    return model


def noise(n_rows: int, n_tokens: int) -> torch.Tensor:
    return torch.rand(n_rows, n_tokens, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_every_text_is_the_one_that_is_written_alone(model, sampling, monkeypatch):
    drawn_by = noise(4, 10)
    stop_ids = frozenset(range(0, 50, 7))
    rollouts = roll_out(model, PROMPTS, 10, sampling, stop_ids=stop_ids, noise=drawn_by)
    assert len({*map(len, rollouts.answers)}) > 1  # some end before others
    for prompt, numbers, answer in zip(PROMPTS, drawn_by, rollouts.answers, strict=True):
        numbers = iter(numbers[:, None])
        monkeypatch.setattr(torch, "rand", lambda *_, numbers=numbers, **__: next(numbers))
        alone = list(generate(model, prompt, 10, sampling, stop_ids=stop_ids))
        monkeypatch.undo()
        assert [id for id in answer if id not in stop_ids] == alone
        assert not stop_ids & {*answer[:-1]} and (len(answer) == 10 or answer[-1] in stop_ids)


def test_a_seed_draws_the_same_one_by_one_and_all_at_once(model):
    answer = roll_out(model, [[3, 1, 4]], 20, SAMPLED, noise=noise(1, 20)).answers[0]
    assert answer == list(generate(model, [3, 1, 4], 20, SAMPLED, generator=torch.Generator().manual_seed(0)))


def test_rows_are_prompt_then_answer_then_padding(model):
    rollouts = roll_out(model, PROMPTS, 10, SAMPLED, stop_ids=frozenset(range(0, 50, 7)), noise=noise(4, 10))
    for row, (prompt, answer) in enumerate(zip(PROMPTS, rollouts.answers, strict=True)):
        text = prompt + answer
        assert rollouts.ids[row].tolist() == text + [0] * (rollouts.ids.shape[1] - len(text))
        places = rollouts.written[row].nonzero()[:, 0].tolist()
        assert places == list(range(len(prompt), len(text)))
    assert rollouts.ids.shape[1] == max(len(p) + len(a) for p, a in zip(PROMPTS, rollouts.answers, strict=True))


def test_log_probs_are_those_of_a_pass_over_the_whole_text(model):
    rollouts = roll_out(model, PROMPTS, 10, Sampling(temperature=2.0), banned_ids=[3, 4], noise=noise(4, 10))
    assert not {3, 4} & {id for answer in rollouts.answers for id in answer}
    for row, (prompt, answer) in enumerate(zip(PROMPTS, rollouts.answers, strict=True)):
        with torch.no_grad():
            expected = model(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = expected[torch.arange(len(answer)), torch.tensor(answer)]
        torch.testing.assert_close(rollouts.log_probs[row][rollouts.written[row]], expected, atol=1e-4, rtol=1e-4)
    assert not rollouts.log_probs[~rollouts.written].any()


def test_a_row_has_its_rule_until_it_ends_and_the_others_are_as_without(model):
    asked = []

    def rule(written, logits):
        asked.append(list(written))
        return torch.full_like(logits, -torch.inf).index_fill(0, torch.tensor([20, 21, 7][len(written)]), 0.0)

    numbers, stop_ids = noise(8, 6), frozenset([7])
    rules = [None] * 8
    rules[3] = rule
    options = {"n_samples": 2, "stop_ids": stop_ids, "noise": numbers}
    ruled, free = (
        roll_out(model, PROMPTS, 6, SAMPLED, rules=rules, **options),
        roll_out(model, PROMPTS, 6, SAMPLED, **options),
    )
    assert ruled.answers[3] == [20, 21, 7] and asked == [[], [20], [20, 21]]
    others = [row for row in range(8) if row != 3]
    assert [ruled.answers[row] for row in others] == [free.answers[row] for row in others]

    alone = list(generate(model, PROMPTS[1], 6, SAMPLED, stop_ids=stop_ids, rule=rule))
    assert alone == [20, 21]
    with (
        torch.no_grad()
    ):  # the log-probabilities are the model's own, although the rule left one token of probability 1
        expected = model(torch.tensor([PROMPTS[1] + ruled.answers[3]]))[0, :-1].log_softmax(-1)
    expected = expected[torch.arange(3), torch.tensor(ruled.answers[3])]
    torch.testing.assert_close(ruled.log_probs[3][ruled.written[3]], expected, atol=1e-4, rtol=1e-4)


def test_samples_of_a_prompt_are_those_of_the_prompt_named_as_often(model):
    numbers = noise(12, 6)
    together = roll_out(model, PROMPTS, 6, SAMPLED, n_samples=3, noise=numbers)
    apart = roll_out(model, [prompt for prompt in PROMPTS for _ in range(3)], 6, SAMPLED, noise=numbers)
    assert together.answers == apart.answers and len({*map(tuple, together.answers[:3])}) > 1


def test_what_was_written_can_be_trained_on(model):
    rollouts = roll_out(model, PROMPTS, 3)
    model.requires_grad_()
    model(rollouts.ids).logsumexp(-1).sum().backward()
    assert model.embedding.weight.grad.any()


def test_drawn_tokens_follow_the_distribution_and_none_of_probability_0_is_drawn():
    logits = torch.tensor([-torch.inf, 0.0, 1.0, -torch.inf, 2.0, -torch.inf]).expand(4000, 6)
    edges = torch.tensor([0.0, torch.tensor(1.0).nextafter(torch.tensor(0.0))])
    drawn = Sampling(temperature=1.0).pick(logits, torch.cat([edges, noise(1, 3998)[0]]))
    shares = torch.bincount(drawn, minlength=6) / 4000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.03, rtol=0)
    assert not shares[[0, 3, 5]].any()


def test_sums_that_grow_where_the_probability_is_0_draw_nothing_there(monkeypatch):
    """As a GPU's may by a rounding, larger here: a tenth at each of three tokens."""
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).expand(1000, 5)
    sums = torch.tensor([0.1, 0.5, 0.6, 0.9, 1.0]).repeat(1000, 1)
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda *_, **__: sums)
    drawn = Sampling(temperature=1.0).pick(logits, torch.arange(1000) / 1000)
    assert {*drawn.tolist()} == {1, 3}


def test_packed_matrices_give_the_same_logits_and_leave_the_model_as_it_was(model):
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    before = dict(model.named_modules())
    with torch.no_grad():
        torch.testing.assert_close(blocked(model, 4)(ids), model(ids), atol=1e-4, rtol=1e-4)
    assert dict(model.named_modules()) == before and not any(type(m) is nn.Linear for m in blocked(model, 4).modules())


def test_the_real_model_writes_what_it_writes_alone(smollm2):
    model, tokenizer = smollm2
    prompts = [tokenizer.encode_prompt(text) for text in ("The capital of France is", "Two and two are", "Once")]
    rollouts = roll_out(model, prompts, 12, stop_ids=tokenizer.end_ids)
    alone = [list(generate(model, prompt, 12, stop_ids=tokenizer.end_ids)) for prompt in prompts]
    assert [[id for id in answer if id not in tokenizer.end_ids] for answer in rollouts.answers] == alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "no prompt"),
        ({"prompts": [[1], []]}, "prompt 1 must have 1 to 27 tokens, not 0"),
        ({"prompts": [[1] * 28]}, "prompt 0 must have 1 to 27 tokens, not 28"),
        ({"prompts": [[1], [50]]}, "prompt 1 holds the id 50"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"n_samples": 0}, "n_samples"),
        ({"banned_ids": range(50)}, "none is left"),
        ({"noise": torch.zeros(2, 5)}, "noise must be"),
        ({"rules": [None, None]}, "for each of 1 rows, not 2"),
        ({"rules": [lambda _, logits: logits[None]]}, r"a rule must return logits of the shape \(50,\)"),
        ({"rules": [lambda _, logits: torch.full_like(logits, -torch.inf)]}, "the rule leaves no token"),
    ],
)
def test_nonsense_is_refused(changes, message):
    model = TransformerLM(CONFIG)
    with pytest.raises(ValueError, match=message):
        roll_out(model, **{"prompts": [[1]], "max_new_tokens": 5} | changes)


def test_a_model_that_has_diverged_is_named():
    model = TransformerLM(CONFIG)
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="no numbers"):
        roll_out(model, [[1]], 5)


def test_a_rollout_without_an_end_is_as_long_as_asked(model):
    rollouts = roll_out(model, [[1]], 5)
    assert isinstance(rollouts, Rollouts) and [len(answer) for answer in rollouts.answers] == [5]


def test_a_hook_on_a_matrix_is_called_in_a_batch_too(model):
    with torch.no_grad():
        before = roll_out(model, PROMPTS, 6).answers
        hook = model.blocks[0].feed_forward.down.register_forward_hook(lambda *_: torch.zeros(()))
        try:
            hooked, alone = roll_out(model, PROMPTS, 6).answers, list(generate(model, PROMPTS[0], 6))
        finally:
            hook.remove()
    assert hooked != before and hooked[0] == alone


@pytest.mark.parametrize("number", [1.0, -0.1, float("nan")])
def test_noise_that_draws_nothing_is_refused(number):
    with pytest.raises(ValueError, match="noise must be from 0 to below 1"):
        roll_out(TransformerLM(CONFIG), [[1]], 5, SAMPLED, noise=torch.full((1, 5), number))
