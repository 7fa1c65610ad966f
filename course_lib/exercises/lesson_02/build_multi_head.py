"""Exercise 02.5: the module of multi-head attention, which then does the attention of SmolLM2."""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerLM
from course_lib.architecture.attention import rotary_angles, rotate
from course_lib.exercises.real_model import bits_per_token, lesson_names, text_ids
from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_MULTI_HEAD"]

Rotation = Callable[[Tensor], Tensor]


class _ByPosition:
    """Rotates queries or keys (batch, head, position, d_head) by their positions, as lesson 02 shows later on."""

    def __call__(self, x: Tensor) -> Tensor:
        return rotate(x, rotary_angles(torch.arange(x.shape[-2]), x.shape[-1]))

    def __repr__(self) -> str:
        return "a rotation by position"


def _layers(generator: torch.Generator) -> list[tuple]:
    """Return x (batch, position, d_model), weights, n_heads, d_head and rotate for each stage."""
    cases = []
    for batch, position, d_model, n_heads, d_head, rotation in (
        (2, 1, 7, 1, 5, None),
        (2, 5, 6, 1, 4, None),
        (2, 4, 9, 3, 5, None),
        (3, 5, 7, 2, 6, _ByPosition()),
    ):
        width = n_heads * d_head
        shapes = {name: (width, d_model) for name in "qkv"} | {"output": (d_model, width)}
        weights = {f"{name}.weight": torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        x = torch.randn(batch, position, d_model, generator=generator)
        cases.append((x, weights, n_heads, d_head, rotation))
    return cases


def _head_by_head(
    x: Tensor, weights: dict[str, Tensor], n_heads: int, d_head: int, rotation: Rotation | None
) -> Tensor:
    """Add up what each head writes: its own rows of the projections, its own columns of the last matrix."""
    parts = [weights[f"{name}.weight"] for name in "qkv"]
    written = []
    for head in range(n_heads):
        rows = slice(head * d_head, (head + 1) * d_head)
        q, k, v = ((x @ part[rows].T)[:, None] for part in parts)
        q, k = (rotation(q), rotation(k)) if rotation else (q, k)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]
        written.append(out @ weights["output.weight"][:, rows].T)
    return torch.stack(written).sum(dim=0)


@torch.no_grad()
def _use(
    made: type, x: Tensor, weights: dict[str, Tensor], n_heads: int, d_head: int, rotation: Rotation | None
) -> Tensor:
    """Make the learner's module, give it the weights, and run it; one without any layer is run as it is."""
    module = _module(made, x.shape[-1], n_heads, d_head)
    found = {name for name, _ in module.named_parameters()}
    if found and found != weights.keys():
        raise ValueError(f"the module should have the weights {_listed(weights)}; it has {_listed(found)}")
    if found:
        module.load_state_dict(weights)
    return module(x) if rotation is None else module(x, rotation)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _module(made: type, *sizes: int) -> nn.Module:
    with torch.random.fork_rng():  # an exercise leaves the seed alone that the learner has set
        return made(*sizes)


class _InPlace(nn.Module):
    """The learner's module in the place of a layer's attention of SmolLM2."""

    def __init__(self, module: nn.Module, d_head: int):
        super().__init__()
        self.module, self.d_head, self.window = module, d_head, None

    def forward(self, x: Tensor, mask: None, *, rotation: tuple[Tensor, Tensor], **_options: object) -> Tensor:
        with torch.device(x.device):  # where a mask is made, too
            return self.module(x, lambda heads: rotate(heads, rotation))


@torch.inference_mode()
def _in_smollm2(made: type) -> str:
    """Put a module of the learner's class into every layer of SmolLM2, and say what becomes of its predictions."""
    model, ids = lesson_names()["model"].whole, text_ids()
    with_theirs = _with_modules(model, made)
    before, after = bits_per_token(model(ids)), bits_per_token(with_theirs(ids))
    return (
        f"Modules of your class, with the weights of SmolLM2, now do the attention in all {len(model.blocks)} of its layers. "
        f"It predicts the text of section 4 at {after:.2f} bits a token; with the library's attention it was {before:.2f}."
    )


def _with_modules(model: TransformerLM, made: type) -> TransformerLM:
    """Return a copy of `model` that shares all weights but attention's, and has a module `made` in each layer."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    copied = copy.deepcopy(model, shared)
    config = model.config
    d_head = model.blocks[0].attention.d_head
    sizes = [heads * d_head for heads in (config.n_heads, config.n_kv_heads, config.n_kv_heads)]
    for block in copied.blocks:
        q, *shared_by_groups = block.attention.qkv.weight.split(sizes)
        # a head of keys or values for each head of queries: that of its group, over and over
        k, v = (
            part.unflatten(0, (-1, d_head)).repeat_interleave(config.n_heads // config.n_kv_heads, dim=0).flatten(0, 1)
            for part in shared_by_groups
        )
        weights = {"q": q, "k": k, "v": v, "output": block.attention.output.weight}
        with torch.device(q.device):
            module = _module(made, config.d_model, config.n_heads, d_head).to(q.dtype)
        module.load_state_dict({f"{name}.weight": weight for name, weight in weights.items()})
        block.attention = _InPlace(module, d_head)
    return copied


_SIGNATURE = '''\
class MultiHead(nn.Module):
    """Causal self-attention in several heads: x (batch, position, d_model) -> the same shape.

    Four linear layers without bias: self.q, self.k and self.v give the queries, keys and values of
    all heads side by side, head 0 first; self.output takes the mixtures of all heads side by side.
    """

    def __init__(self, d_model, n_heads, d_head):  # d_head need not be d_model / n_heads
        super().__init__()
{init}

    def forward(self, x, rotate=None):
        """If given, rotate(q) and rotate(k), (batch, head, position, d_head), take their places."""
{forward}
'''
_SPLIT = "unflatten(-1, (self.n_heads, -1)).transpose(1, 2)"


def _built(
    q: str = "nn.Linear(d_model, width, bias=False)",
    split: str = _SPLIT,
    rotated: str = "rotate(q), rotate(k)",
    before: str = "",
    scale: str = "math.sqrt(q.shape[-1])",
    future: str = "torch.ones(n, n, dtype=torch.bool).triu(1)",
    weights: str = "scores.masked_fill(future, -math.inf).softmax(dim=-1)",
    result: str = "self.output((weights @ v).transpose(1, 2).flatten(2))",
) -> str:
    """Return the cell of exercise 02.5 with its steps as given."""
    init = f"""\
        self.n_heads, width = n_heads, n_heads * d_head
        self.q, self.k, self.v = ({q} for _ in range(3))
        self.output = nn.Linear(width, d_model, bias=False)"""
    forward = f"""\
        n = x.shape[1]
        q, k, v = (part(x){before}.{split} for part in (self.q, self.k, self.v))
        if rotate:
            q, k = {rotated}
        scores = q @ k.transpose(-2, -1) / {scale}  # (batch, head, query, key)
        future = {future}
        weights = {weights}
        return {result}"""
    return _SIGNATURE.format(init=init, forward=forward)


BUILD_MULTI_HEAD = Exercise(
    id="02.5",
    kind="build",
    title="The module of multi-head attention",
    section="Split, attend, concatenate, project",
    answer="MultiHead",
    results=("output",),
    inputs=_layers,
    expected=_head_by_head,
    names=lambda: {"nn": nn},
    use=_use,
    reward=_in_smollm2,
    stages=(
        Stage(
            "one head, and texts of a single token",
            "A single token gives itself the weight 1, so that its value comes through as it is. What has to be right "
            "here are "
            "the four layers, and the way through two of them.",
        ),
        Stage(
            "one head, and several tokens",
            "Now the weights count: scores, their scale, what may not be seen, and over which axis they are shared out.",
        ),
        Stage(
            "several heads",
            "Each head has its own neighbouring numbers of every projection, and weights of its own. Afterwards they stand "
            "side by side in the same order.",
        ),
        Stage(
            "queries and keys that are rotated",
            "`rotate` is a function. It goes by the axis before the last, and takes what has been split into heads.",
        ),
    ),
    stub=_SIGNATURE.format(init="        ...", forward="        ..."),
    solution=_built(),
    why="This is the whole layer: four matrices, two changes of axes, and lesson 01's attention in between, over one more "
    "axis. SmolLM2 has fewer keys and values than queries; your module got each of them three times, once for every "
    "query head that "
    "shares it, and the sum is the same. `course_lib.architecture.attention.MultiHeadAttention` adds what makes it fast: one "
    "matrix for all three projections, and a kernel that never stores the weights.",
    hints=(
        "In `__init__`, how many numbers do all heads together have? That is the width between the projections and `output`, "
        "and `forward` needs n_heads again: keep it.",
        "In `forward`: project, split into heads, rotate if asked to, attend as in lesson 01 with a causal mask, set side by "
        "side, project.",
        "Split the last axis into (head, d_head), then bring the head axis before the positions. On the way back, first "
        "exchange the axes, then join the last two.",
    ),
    mistakes=(
        Mistake(
            _built(result="(weights @ v).transpose(1, 2).flatten(2)"),
            "The output projection is missing: without it the result is as wide as all heads together, not as the model.",
        ),
        Mistake(
            _built(result="self.output((weights @ v).transpose(1, 2).flatten(2)) + x"),
            "The input is added to the result. That is the layer's task, around attention; the module gives only what it "
            "adds.",
        ),
        Mistake(
            _built(q="nn.Linear(d_model, width)"),
            "The projections have a bias, for which there are no weights. All four layers do without.",
        ),
        Mistake(
            _built(q="nn.Linear(d_model, d_model, bias=False)"),
            "The projections give d_model numbers. They give n_heads · d_head, which may be another number.",
        ),
        Mistake(
            _built(future="torch.zeros(n, n, dtype=torch.bool)"),
            "The mask is missing: each position sees those after it.",
        ),
        Mistake(
            _built(weights="scores.masked_fill(~future, -math.inf).softmax(dim=-1)"),
            "The mask is the wrong way round: each position sees only what follows it, and the last one nothing at all.",
        ),
        Mistake(
            _built(future="torch.ones(n, n, dtype=torch.bool).triu()"),
            "The mask hides each position from itself, and the first one sees nothing.",
        ),
        Mistake(
            _built(future="torch.ones(n, n, dtype=torch.bool).triu(2)"),
            "The mask lets each position see the one after it: the very token that is to be predicted.",
        ),
        Mistake(
            _built(future="torch.ones(n, n, dtype=torch.bool).tril(-1)"),
            "The mask hides the past in place of the future.",
        ),
        Mistake(
            _built(weights="scores.masked_fill(future, 0).softmax(dim=-1)"),
            "A score of 0 hides nothing: its exponential is 1. Minus infinity becomes a weight of 0.",
        ),
        Mistake(
            _built(weights="scores.softmax(dim=-1).masked_fill(future, 0)"),
            "The mask comes after the softmax, so that the rows no longer add up to 1.",
        ),
        Mistake(
            _built(weights="scores.masked_fill(future, -math.inf).softmax(dim=-2)"),
            "The softmax runs over the queries. Each query shares out its weight of 1 among the keys.",
        ),
        Mistake(
            _built(scale="1"),
            "The scores are not scaled by 1/√d_head.",
        ),
        Mistake(
            _built(scale="math.sqrt(x.shape[-1])"),
            "The scores are divided by √d_model. A head's dot product adds up d_head numbers.",
        ),
        Mistake(
            _built(scale="math.sqrt(q.shape[-1] * self.n_heads)"),
            "The scores are divided by the root of the width of all heads together. One head's dot product adds up d_head "
            "numbers.",
        ),
        Mistake(
            _built(split="view(len(x), self.n_heads, n, -1)"),
            "The heads cut up the text: `view` counts off the numbers in the order in which they lie, position by position. "
            "First cut the width, then exchange axes.",
        ),
        Mistake(
            _built(split="unflatten(-1, (-1, self.n_heads)).permute(0, 3, 1, 2)"),
            "Each head takes every n-th number. It has a run of neighbouring ones, head 0 first.",
        ),
        Mistake(
            _built(split="unflatten(-1, (1, -1)).transpose(1, 2)"),
            "The width is never split: that is one wide head, with one row of weights for all it has to hand on.",
        ),
        Mistake(
            _built(result="self.output((weights @ v).reshape(len(x), n, -1))"),
            "The split is right. On the way back the axes must be exchanged again before the heads are set side by side.",
        ),
        Mistake(
            _built(rotated="q, k"),
            "Nothing is rotated, or by the number of its head, which changes no score. `rotate` takes queries and keys with "
            "the positions on the axis before the last.",
        ),
        Mistake(
            _built(rotated="rotate(q), k"),
            "Only the queries are rotated. The angle between a query and a key counts if both are.",
        ),
        Mistake(
            _built(rotated="q, rotate(k)"),
            "Only the keys are rotated. The angle between a query and a key counts if both are.",
        ),
        Mistake(
            _built(rotated="rotate(q), rotate(k)\n            v = rotate(v)"),
            "The values are rotated as well. They are handed on as they are.",
        ),
    ),
)
