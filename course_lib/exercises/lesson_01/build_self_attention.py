"""Exercise 01.8: causal self-attention, from a position's vectors and the weight matrices to its output."""

import math
from contextlib import ExitStack

import torch
from torch import Tensor

from course_lib.architecture import TransformerLM
from course_lib.architecture.attention import MultiHeadAttention, rotate
from course_lib.exercises.real_model import lesson_names
from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_SELF_ATTENTION"]


class _Turn:
    """Turns pairs of numbers in `vectors` (…, position, d) by an angle that grows with the position; d is even."""

    def __call__(self, vectors: Tensor) -> Tensor:
        n, d = vectors.shape[-2:]
        angle = torch.arange(1.0, n + 1)[:, None] * 0.6 ** torch.arange(d // 2)
        return rotate(vectors, (angle.cos(), angle.sin()))

    def __repr__(self) -> str:
        return "a function"


def _vectors_and_matrices(generator: torch.Generator) -> list[tuple]:
    """Return x (…, position, d_model), w_q, w_k (d_model, d), w_v (d_model, d_v) and turn, for each stage."""
    cases = []
    for leading, d, d_v in (((1, 5), 3, 4), ((6, 4), 7, 3), ((5, 8), 3, 6), ((2, 5, 7), 3, 4), ((3, 6, 8), 4, 2)):
        x, d_model = torch.randn(leading, generator=generator), leading[-1]
        w_q, w_k, w_v = (torch.randn(d_model, n, generator=generator) / math.sqrt(d_model) for n in (d, d, d_v))
        cases.append((x, 2 * w_q, w_k, w_v, None))
    cases[1][1].zero_()  # every query is zero: all scores are equal
    cases[4] = *cases[4][:4], _Turn()
    return cases


def _query_by_query(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, turn: _Turn | None) -> Tensor:
    """Go from query to query and from one visible key to the next, in plain numbers."""
    if x.ndim > 2:
        return torch.stack([_query_by_query(row, w_q, w_k, w_v, turn) for row in x])
    q, k, v = (torch.einsum("pm,md->pd", x, w) for w in (w_q, w_k, w_v))
    q, k = (q, k) if turn is None else (turn(q), turn(k))
    outputs = []
    for i in range(len(x)):
        parts = [math.exp((q[i] * k[j]).sum().item() * len(q[i]) ** -0.5) for j in range(i + 1)]
        outputs.append(sum(part * v[j] for j, part in enumerate(parts)) / sum(parts))
    return torch.stack(outputs)


_SENTENCE = "The paintings on the wall are very old. The paintings on the"


def _in_every_head(answer: object) -> str:
    """Put the answer in the place of every head of SmolLM2, let it go on with a sentence, and say what it writes."""
    model, tokenizer = lesson_names()["model"].whole, lesson_names()["tokenizer"]
    ids = tokenizer.encode(_SENTENCE)
    theirs, logits = _continued(model, ids)
    with ExitStack() as stack:
        for block in model.blocks:
            _replace_heads(block.attention, answer, stack)
        ours, of_answer = _continued(model, ids)
    return (
        f"Your function has stood in for all {len(model.blocks) * model.config.n_heads} heads of SmolLM2, each with its own "
        f"matrices. “{_SENTENCE}” goes on: “{tokenizer.decode(ours)}”. The model's own heads write: "
        f"“{tokenizer.decode(theirs)}”. The two differ by at most {(logits - of_answer).abs().max():.1g} in the first logits, "
        f"of which the largest is {logits.max():.0f}."
    )


@torch.inference_mode()
def _continued(model: TransformerLM, ids: list[int], n_new: int = 5) -> tuple[list[int], Tensor]:
    """Return the `n_new` tokens that are likeliest to follow, one after the other, and the first one's logits (vocab,)."""
    written, first = list(ids), None
    for _ in range(n_new):
        logits = model(torch.tensor([written], device=model.device))[0, -1].float()
        first = logits if first is None else first
        written.append(logits.argmax().item())
    return written[len(ids) :], first


def _replace_heads(attention: MultiHeadAttention, answer: object, stack: ExitStack) -> None:
    """As long as `stack` is open, `answer` makes what the heads of `attention` give; it is run on the CPU, in float32."""
    given = {}
    matrices = attention.qkv.weight.detach().float().cpu().split(attention.d_head)  # one a head: queries, keys, values
    n_heads, n_kv = attention.n_heads, attention.n_kv_heads

    def keep(_module, args, kwargs):
        given["x"], given["rotation"] = args[0], [angle.float().cpu() for angle in kwargs["rotation"]]

    def put(_module, _args):
        x, outputs = given["x"], []
        for head in range(n_heads):
            at = n_heads + head * n_kv // n_heads  # several heads share their keys, and their values
            w_q, w_k, w_v = (matrices[i].T for i in (head, at, at + n_kv))
            outputs.append(answer(x.float().cpu(), w_q, w_k, w_v, lambda vectors: rotate(vectors, given["rotation"])))
        return (torch.cat(outputs, dim=-1).to(x),)

    for hook in (
        attention.register_forward_pre_hook(keep, with_kwargs=True),
        attention.output.register_forward_pre_hook(put),
    ):
        stack.callback(hook.remove)


_SIGNATURE = '''\
def self_attention(x, w_q, w_k, w_v, turn=None):
    """Causal self-attention: the output (…, position, d_v).

    x (…, position, d_model), w_q and w_k (d_model, d), w_v (d_model, d_v). Each position attends
    to itself and to those before it. `turn`, if there is one, marks queries and keys with their
    positions: turn(vectors) takes (…, position, d), and what it returns has the same shape.
    """
'''
_PRODUCT = "q @ k.transpose(-2, -1)"
_BEFORE = "scores.masked_fill(future, -math.inf).softmax(dim=-1)"


def _built(
    vectors: str = "x @ w_q, x @ w_k, x @ w_v",
    turned: str = "q, k = turn(q), turn(k)",
    scores: str = f"{_PRODUCT} / math.sqrt(q.shape[-1])",
    future: str = "torch.ones_like(scores, dtype=torch.bool).triu(1)",
    weights: str = _BEFORE,
    result: str = "weights @ v",
) -> str:
    """Return the cell of exercise 01.8 with its steps as given."""
    return f"""\
{_SIGNATURE}    q, k, v = {vectors}
    if turn is not None:
        {turned}
    scores = {scores}
    future = {future}
    weights = {weights}
    return {result}
"""


BUILD_SELF_ATTENTION = Exercise(
    id="01.8",
    kind="build",
    title="Causal self-attention, whole",
    section="Build it whole",
    answer="self_attention",
    results=("output",),
    inputs=_vectors_and_matrices,
    expected=_query_by_query,
    reward=_in_every_head,
    stages=(
        Stage(
            "one token",
            "There is nothing to share out: its weight is 1, and its output is its own value. Which matrix makes it?",
        ),
        Stage(
            "several tokens whose queries are zero",
            "All scores are 0. The first token still sees only itself, the second shares evenly among two, and so on.",
        ),
        Stage(
            "queries that differ",
            "Now it counts how queries meet keys, and by what the scores are divided before the softmax.",
        ),
        Stage(
            "a batch",
            "A batch puts a dimension in front. Count dimensions from the end, and nothing else changes.",
        ),
        Stage(
            "positions",
            "Here `turn` is given. What is compared is to carry its position; what is handed over is not.",
        ),
    ),
    stub=f"{_SIGNATURE}    ...\n",
    solution=_built(),
    why="Three products make queries, keys and values of the same vectors; that makes it *self*-attention. Positions go into "
    "the two that are compared. The future gets −∞ before the softmax, so that no weight goes there and each row still has "
    "the sum 1. Nothing in it depends on how many tokens there are, or how many texts: one function is the head of a toy and "
    "of a real model, and only the matrices differ.",
    hints=(
        "Section 6 has the part from queries, keys and values on. New are the three products before it, and the mask inside.",
        "Scores, mask and weights are (…, position, position); rows are queries. What is hidden lies to the right of the "
        "diagonal, and the diagonal itself is seen.",
        "`turn` goes between the products and the scores, on queries and on keys. Without it, leave them as they are.",
    ),
    mistakes=(
        Mistake(
            _built(result="weights @ x"),
            "What is mixed is x itself. Each position hands over its value, which the third matrix makes of x.",
        ),
        Mistake(
            _built(vectors="x @ w_q, x @ w_k, x @ w_k"),
            "The values are the keys. They have a matrix of their own, since what a token is found by need not be what it "
            "hands over.",
        ),
        Mistake(
            _built(vectors="w_q @ x, w_k @ x, w_v @ x"),
            "The matrices stand on the wrong side. A row of x is one position, so x comes first.",
        ),
        Mistake(
            _built(future="torch.ones_like(scores, dtype=torch.bool).triu()"),
            "A position does not see itself, and the first one sees nothing: a softmax over nothing is NaN. The diagonal is "
            "not the future.",
        ),
        Mistake(
            _built(future="torch.ones_like(scores, dtype=torch.bool).tril()"),
            "The mask is inverted: the past is hidden, and the last position sees nothing at all. `masked_fill` fills where "
            "its mask is True.",
        ),
        Mistake(
            _built(result="weights"),
            "Those are the weights. The output is the mixture of values that they make.",
        ),
        Mistake(
            _built(scores=_PRODUCT, weights=f"{_BEFORE} / math.sqrt(q.shape[-1])"),
            "The division comes after the softmax: the weights no longer have the sum 1, and the softmax has saturated "
            "already.",
        ),
        Mistake(
            _built(weights="scores.softmax(dim=-1)"),
            "Nothing is hidden: each position sees the whole text, the future too.",
        ),
        Mistake(
            _built(weights="scores.softmax(dim=-1).masked_fill(future, 0.0)"),
            "The future is hidden after the softmax, when it has already taken its share of the sum: rows no longer add up to "
            "1.",
        ),
        Mistake(
            _built(weights=_BEFORE.replace("-math.inf", "0.0")),
            "Hidden scores are set to 0, and the exponential of 0 is 1, not 0: the future keeps some weight.",
        ),
        Mistake(
            _built(weights=_BEFORE.replace("-1", "-2")),
            "The softmax runs over the queries. Each *row* is to have the sum 1.",
        ),
        Mistake(
            _built(future="torch.ones_like(scores, dtype=torch.bool).tril(-1)"),
            "The mask is transposed: each position sees itself and the future. Rows are queries, so the future lies to the "
            "right of the diagonal.",
        ),
        Mistake(
            _built(result="weights.transpose(-2, -1) @ v"),
            "The output is mixed by columns: each row of the weights belongs to the query whose output it makes.",
        ),
        Mistake(
            _built(scores=_PRODUCT),
            "The division by √d is missing.",
        ),
        Mistake(
            _built(scores=f"{_PRODUCT} / q.shape[-1]"),
            "That divides by d. The variance of a score grows as d, and its spread as √d.",
        ),
        Mistake(
            _built(scores=f"{_PRODUCT} / math.sqrt(x.shape[-1])"),
            "That is the root of d_model, the size of x. A score is a sum over the d numbers of a query and a key.",
        ),
        Mistake(
            _built(scores=f"{_PRODUCT} / math.sqrt(v.shape[-1])"),
            "That is the root of d_v, the size of the values, which have no part in the scores.",
        ),
        Mistake(
            _built(scores=f"{_PRODUCT} / math.sqrt(x.shape[-2])"),
            "That is the root of the number of positions. A score is a sum over the d numbers of a query and a key.",
        ),
        Mistake(
            _built(scores="k @ q.transpose(-2, -1) / math.sqrt(q.shape[-1])"),
            "Queries and keys have changed places: row i then holds what the others ask of i, not what i asks of them.",
        ),
        Mistake(
            _built(vectors="x @ w_q, x @ w_q, x @ w_v"),
            "The keys are the queries. They have a matrix of their own, w_k.",
        ),
        Mistake(
            _built(scores="x @ x.transpose(-2, -1) / math.sqrt(x.shape[-1])"),
            "Here x is compared with itself, by no matrix. It is queries that meet keys.",
        ),
        Mistake(
            _built(weights=_BEFORE.replace("-1", "1")),
            "Dimension 1 is that of the keys for one text. In a batch it is that of the queries; count from the end.",
        ),
        Mistake(
            _built(future="torch.ones(len(x), len(x), dtype=torch.bool).triu(1)"),
            "`len(x)` is the number of positions for one text. In a batch it is the number of texts.",
        ),
        Mistake(
            _built(scores="q @ k.transpose(0, 1) / math.sqrt(q.shape[-1])"),
            "Dimensions 0 and 1 are the last two for one text only. In a batch, 0 counts the texts.",
        ),
        Mistake(
            _built(turned="pass"),
            "`turn` is not used, and without it attention is blind to order. Queries and keys go through it.",
        ),
        Mistake(
            _built(turned="q = turn(q)"),
            "Only the queries are turned. A score can tell how far apart two positions are only if both carry theirs.",
        ),
        Mistake(
            _built(turned="k = turn(k)"),
            "Only the keys are turned. A score can tell how far apart two positions are only if both carry theirs.",
        ),
        Mistake(
            _built(turned="q, k, v = turn(q), turn(k), turn(v)"),
            "The values are turned too. Positions decide who looks where; what is handed over stays as it is.",
        ),
        Mistake(
            _built(turned="q, k, v = turn(x) @ w_q, turn(x) @ w_k, x @ w_v"),
            "Here x is turned, before the matrices. It is the queries and keys that they make which are turned.",
        ),
    ),
)
