"""Exercise 03.5: a pre-norm block, and the language model made of such blocks."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_lib.architecture import attention, transformer
from course_lib.architecture.transformer import TransformerConfig
from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_MODEL", "learners_names"]

Weights = dict[str, Tensor]

_NAMES = {"attention_residual.input_norm": "norm_1", "feed_forward_residual.input_norm": "norm_2"}


def learners_names(weights: Weights) -> Weights:
    """Return the weights of a `TransformerLM` by the names that the exercise gives its modules."""
    renamed = {}
    for name, weight in weights.items():
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name] = weight
    return renamed


def _models(generator: torch.Generator) -> list[tuple[Tensor, Weights, TransformerConfig]]:
    """Return ids (batch, position), the weights of a model, and its configuration: a stage each."""
    cases = []
    for shape, (n_texts, n_positions), more in (
        ((11, 8, 1, 2, 6, 2), (2, 3), {}),
        ((13, 6, 1, 1, 10, 1), (3, 1), {}),
        ((12, 12, 1, 3, 7, 3), (2, 4), {}),
        ((14, 16, 1, 4, 9, 2), (2, 3), {}),
        ((17, 12, 3, 6, 10, 2), (1, 4), {}),
        ((15, 20, 2, 2, 8, 1), (2, 5), {"rope_theta": 30.0, "norm_eps": 0.3}),
    ):
        vocab_size, d_model, n_layers, n_heads, d_ff, n_kv_heads = shape
        config = TransformerConfig(
            vocab_size, d_model, n_layers, n_heads, d_ff, context_length=32, n_kv_heads=n_kv_heads, **more
        )
        shapes = learners_names(transformer.TransformerLM(config).state_dict())
        weights = {name: _drawn(weight, generator) for name, weight in shapes.items()}
        cases.append((torch.randint(vocab_size, (n_texts, n_positions), generator=generator), weights, config))
    for name, weight in cases[0][1].items():
        if name.endswith(("output.weight", "down.weight")):
            weight.zero_()  # in the first stage no sublayer writes anything
    return cases


def _drawn(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return weights of the same shape, of such a size that each part of the model counts."""
    drawn = torch.randn(weight.shape, generator=generator)
    return 1 + drawn.abs() if weight.ndim == 1 else 1.5 * drawn / math.sqrt(weight.shape[1])


def _position_by_position(ids: Tensor, weights: Weights, c: TransformerConfig) -> Tensor:
    """Write each text token by token, in float64, with a list of past keys and values for each layer and head."""
    weights = {name: weight.double() for name, weight in weights.items()}
    return torch.stack([_one_text(row, weights, c) for row in ids.tolist()]).float()


def _one_text(ids: list[int], weights: Weights, c: TransformerConfig) -> Tensor:
    d_head = c.d_model // c.n_heads
    past = [[([], []) for _ in range(c.n_kv_heads)] for _ in range(c.n_layers)]
    rows = []
    for position, token in enumerate(ids):
        x = weights["embedding.weight"][token]
        for layer, of_layer in enumerate(past):
            part = {
                name.split(".", 2)[2]: weight for name, weight in weights.items() if name.startswith(f"blocks.{layer}.")
            }
            heads = (part["attention.qkv.weight"] @ _scaled(x, part["norm_1.weight"], c)).view(-1, d_head)
            for head, (keys, values) in enumerate(of_layer):
                keys.append(_turned(heads[c.n_heads + head], position, c.rope_theta))
                values.append(heads[c.n_heads + c.n_kv_heads + head])
            mixed = []
            for head in range(c.n_heads):
                keys, values = of_layer[head * c.n_kv_heads // c.n_heads]
                query = _turned(heads[head], position, c.rope_theta)
                scores = torch.stack([(query * key).sum() for key in keys]) / d_head**0.5
                mixed.append(scores.softmax(dim=0) @ torch.stack(values))
            x = x + part["attention.output.weight"] @ torch.cat(mixed)
            gate, up = (part["feed_forward.up.weight"] @ _scaled(x, part["norm_2.weight"], c)).view(2, -1)
            x = x + part["feed_forward.down.weight"] @ (gate / (1 + (-gate).exp()) * up)
        rows.append(weights["embedding.weight"] @ _scaled(x, weights["final_norm.weight"], c))
    return torch.stack(rows)


def _scaled(x: Tensor, weight: Tensor, c: TransformerConfig) -> Tensor:
    return weight * x / (x.dot(x) / len(x) + c.norm_eps).sqrt()


def _turned(x: Tensor, position: int, theta: float) -> Tensor:
    """Turn the pairs (x[i], x[i + d / 2]) as complex numbers."""
    half = len(x) // 2
    angles = position * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag])


def _written(logits_of: Callable[..., Tensor]) -> str:
    """Load SmolLM2's weights into the learner's model, and let it write."""
    from course_lib.exercises.real_model import lesson_names  # imported here: not before there is an answer

    names = lesson_names()
    model, tokenizer = names["model"].whole, names["tokenizer"]
    weights, text = learners_names(model.state_dict()), "The three states of matter are"
    ids = tokenizer.encode(text)
    with torch.inference_mode():
        for _ in range(7):
            logits = logits_of(torch.tensor([ids], device=model.device), weights, model.config)
            ids.append(logits[0, -1].argmax().item())
        theirs = model(torch.tensor([ids[:-1]], device=model.device))
    same = (logits.argmax(dim=-1) == theirs.argmax(dim=-1)).sum().item()
    return (
        f"Your model has taken all {sum(weight.numel() for weight in weights.values()):,} weights of SmolLM2, and at "
        f"{same} of {logits.shape[1]} positions it predicts what the library's model does. It writes: {tokenizer.decode(ids)!r}"
    )


_BLOCK = """\
        super().__init__()
        self.norm_1 = transformer.RMSNorm(c.d_model, c.norm_eps)
        self.attention = attention.MultiHeadAttention(c.d_model, c.n_heads, c.n_kv_heads)
        self.norm_2 = transformer.RMSNorm(c.d_model, c.norm_eps)
        self.feed_forward = transformer.FeedForward(c)
"""
_ATTEND = "x + self.attention(self.norm_1(x), rotation=rotation)"
_COMPUTE = "return x + self.feed_forward(self.norm_2(x))"
_MODEL = """\
        super().__init__()
        self.c = c
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layers))
        self.final_norm = transformer.RMSNorm(c.d_model, c.norm_eps)
"""
_ANGLES = "attention.rotary_angles(positions, self.c.d_model // self.c.n_heads, self.c.rope_theta)"
_EMBED = "self.embedding(ids)"
_LAYERS = """\
        for block in self.blocks:
            x = block(x, rotation)
"""
_LOGITS = "self.final_norm(x) @ self.embedding.weight.T"
_CHECKED = """\
def logits_of(ids, weights, c):  # how the check uses your class: leave it as it is
    with torch.device("meta"):  # shapes only: the weights come next
        model = LanguageModel(c)
    model.load_state_dict(weights, assign=True)
    return model(ids)
"""


def _model(
    block: str = _BLOCK,
    attend: str = _ATTEND,
    compute: str = _COMPUTE,
    model: str = _MODEL,
    positions: str = "torch.arange(ids.shape[1], device=ids.device)",
    angles: str = _ANGLES,
    embed: str = _EMBED,
    layers: str = _LAYERS,
    logits: str = _LOGITS,
) -> str:
    """Return the cell of exercise 03.5 with its steps as given."""
    return f"""\
class Block(nn.Module):
    def __init__(self, c):
{block}
    def forward(self, x, rotation):
        x = {attend}
        {compute}


class LanguageModel(nn.Module):
    def __init__(self, c):
{model}
    def forward(self, ids):
        positions = {positions}
        rotation = {angles}
        x = {embed}
{layers}\
        return {logits}


{_CHECKED}"""


BUILD_MODEL = Exercise(
    id="03.5",
    kind="build",
    title="A block, and the language model",
    section="Assemble it",
    answer="logits_of",
    results=("logits",),
    inputs=_models,
    names=lambda: {"nn": nn, "attention": attention, "transformer": transformer},
    expected=_position_by_position,
    reward=_written,
    tolerance=1e-3,
    stages=(
        Stage(
            "one layer whose sublayers write nothing",
            "What is left is the frame: embeddings, a stream that nothing is added to, the last norm, and the dot product with "
            "every embedding. Each module needs its name from the table.",
        ),
        Stage(
            "texts of one token",
            "Attention has only itself to look at, so what is new is the block: two sublayers, one after the other. Each reads "
            "through its own norm, and adds what it says to the stream.",
        ),
        Stage(
            "texts of several tokens",
            "Now positions count. Compute the rotation once, from 0 to the number of positions, and hand it to each block's "
            "attention.",
        ),
        Stage(
            "fewer heads for keys and values than for queries",
            "The configuration has a field for the number of key/value heads, which the attention takes.",
        ),
        Stage(
            "several layers",
            "Each layer has weights of its own, and reads what the one below it has left in the stream.",
        ),
        Stage(
            "another base of the rotary angles, and another ε",
            "SmolLM2 departs from the usual base 10,000. Take both numbers from the configuration: rope_theta, norm_eps.",
        ),
    ),
    stub=f"""\
class Block(nn.Module):  # norm_1, attention, norm_2, feed_forward
    def __init__(self, c): ...
    def forward(self, x, rotation): ...  # x (batch, position, d_model) -> the same shape


class LanguageModel(nn.Module):  # embedding, blocks, final_norm
    def __init__(self, c): ...
    def forward(self, ids): ...  # (batch, position) -> logits (batch, position, vocab)


{_CHECKED}""",
    solution=_model(),
    why="A block is two lines: read through a norm, compute, add; first across positions, then at each by itself. The model is "
    "an embedding at each end, the same matrix, and a list of such blocks on one stream. All blocks turn their queries and "
    "keys by the same angles, so those are computed once. Names matter only because a checkpoint is a dictionary: "
    "`load_state_dict` compares names and shapes, and nothing else; that the numbers meet the right operations is for you to "
    "see to. `course_lib.architecture.transformer` is this model with switches for all that section 13 names.",
    hints=(
        "Begin with the frame, and let each block hand on x as it is: stage 1 needs no more than that of `forward`.",
        "A module's parts are made in `__init__` and used in `forward`. A list of modules is an nn.ModuleList, else nobody "
        "finds its weights.",
        "In a block: attention reads norm_1 of the stream and gets the rotation by its name; then the feed-forward network "
        "reads norm_2 of the new stream. Both times, add.",
    ),
    mistakes=(
        Mistake(
            _model(logits="x @ self.embedding.weight.T"),
            "The stream goes to the unembedding as it is. The last norm comes first.",
        ),
        Mistake(
            _model(logits="self.final_norm(x)"),
            "That is the stream behind the last norm. The logits are its dot products with every row of the embedding matrix.",
        ),
        Mistake(
            _model(logits="(self.final_norm(x) @ self.embedding.weight.T).softmax(dim=-1)"),
            "Those are probabilities. Return the logits; the softmax is left to the loss, or to whoever samples.",
        ),
        Mistake(
            _model(logits="self.final_norm(x @ self.embedding.weight.T)"),
            "The last norm stands behind the unembedding. It normalises the stream, in front of it.",
        ),
        Mistake(
            _model(logits="(self.final_norm(x) @ self.embedding.weight.T)[:, -1]"),
            "Those are the logits of the last position. Give those of all: in training each of them counts.",
        ),
        Mistake(
            _model(embed="self.embedding(ids) * self.c.d_model**0.5"),
            "The embeddings are multiplied by √d_model, as in 2017 and in Gemma. SmolLM2 takes them as they are.",
        ),
        Mistake(
            _model(attend="self.attention(self.norm_1(x), rotation=rotation)"),
            "The attention replaces the stream. What it says is added.",
        ),
        Mistake(
            _model(compute="return self.feed_forward(self.norm_2(x))"),
            "The feed-forward network replaces the stream. What it says is added.",
        ),
        Mistake(
            _model(
                attend="self.norm_1(x + self.attention(x, rotation=rotation))",
                compute="return self.norm_2(x + self.feed_forward(x))",
            ),
            "The norms stand behind the sums: that is post-norm. SmolLM2's stand at each sublayer's input.",
        ),
        Mistake(
            _model(
                attend="x + self.norm_1(self.attention(x, rotation=rotation))",
                compute="return x + self.norm_2(self.feed_forward(x))",
            ),
            "The norms stand at the outputs, as in OLMo 2. SmolLM2's stand at each sublayer's input.",
        ),
        Mistake(
            _model(attend="x + self.attention(x, rotation=rotation)", compute="return x + self.feed_forward(x)"),
            "The sublayers read the stream as it is. Each reads it through its norm.",
        ),
        Mistake(
            _model(
                attend="x + self.attention(self.norm_2(x), rotation=rotation)",
                compute="return x + self.feed_forward(self.norm_1(x))",
            ),
            "The two norms have changed places: norm_1 belongs to the attention.",
        ),
        Mistake(
            _model(attend="x + self.feed_forward(self.norm_2(x))", compute="return " + _ATTEND),
            "The feed-forward network comes before the attention. It is the other way round.",
        ),
        Mistake(
            _model(compute="return x"),
            "The feed-forward network is never used.",
        ),
        Mistake(
            _model(attend="x"),
            "The attention is never used.",
        ),
        Mistake(
            _model(attend="x + self.attention(self.norm_1(x))"),
            "The rotation never reaches the attention, so the model has no positions. Hand it on by its name.",
        ),
        Mistake(
            _model(positions="1 + torch.arange(ids.shape[1] - 1, -1, -1, device=ids.device)"),
            "The positions run backwards. They begin with 0 at the first token.",
        ),
        Mistake(
            _model(attend="x + self.attention(self.norm_1(x), rotation=rotation, causal=False)"),
            "The future is seen: this attention is not causal. Leave it as it is by default.",
        ),
        Mistake(
            _model(angles="attention.rotary_angles(positions, self.c.d_model, self.c.rope_theta)"),
            "The angles are made for d_model numbers. It is each head that is turned: d_model / n_heads of them.",
        ),
        Mistake(
            _model(block=_BLOCK.replace("c.n_heads, c.n_kv_heads", "c.n_heads")),
            "The attention has as many heads for keys and values as for queries, so the weights do not fit. Give n_kv_heads.",
        ),
        Mistake(
            _model(model=_MODEL.replace("Block(c) for _ in range(c.n_layers)", "[Block(c)] * c.n_layers")),
            "All layers are one and the same block, so the last one's weights overwrite the others'. Make one for each.",
        ),
        Mistake(
            _model(model=_MODEL.replace("Block(c) for _ in range(c.n_layers)", "[Block(c)]")),
            "There is one block only. The configuration says how many: n_layers.",
        ),
        Mistake(
            _model(
                model=_MODEL.replace(
                    "nn.ModuleList(Block(c) for _ in range(c.n_layers))", "[Block(c) for _ in range(c.n_layers)]"
                )
            ),
            "A plain list hides its modules from PyTorch, so their weights are not found. nn.ModuleList shows them.",
        ),
        Mistake(
            _model(layers="        for block in self.blocks[:1]:\n            x = block(x, rotation)\n"),
            "Only the first block is used.",
        ),
        Mistake(
            _model(layers="        for block in reversed(self.blocks):\n            x = block(x, rotation)\n"),
            "The blocks are run from the top down. Block 0 comes first.",
        ),
        Mistake(
            _model(layers="        for block in self.blocks:\n            x = block(self.embedding(ids), rotation)\n"),
            "Every block reads the bare embeddings. It reads what the one below has left in the stream.",
        ),
        Mistake(
            _model(layers="        for block in self.blocks:\n            x = x + block(x, rotation)\n"),
            "The stream is added once more around each block. A block's sublayers add to it already.",
        ),
        Mistake(
            _model(layers="        for block in self.blocks:\n            x = self.final_norm(block(x, rotation))\n"),
            "The last norm is used behind every block. It stands once, at the top.",
        ),
        Mistake(
            _model(angles="attention.rotary_angles(positions, self.c.d_model // self.c.n_heads)"),
            "The rotary angles have the usual base of 10,000. This model's stands in its configuration: rope_theta.",
        ),
        Mistake(
            _model(
                block=_BLOCK.replace("c.norm_eps", "1e-5"),
                model=_MODEL.replace("c.norm_eps", "1e-5"),
            ),
            "The norms have an ε of 1e-5. This model's stands in its configuration: norm_eps.",
        ),
    ),
)
