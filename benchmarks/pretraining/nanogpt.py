"""The baseline: nanoGPT's model and recipe for a CPU (https://github.com/karpathy/nanoGPT), written anew.

    python train.py config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1
        --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0

Every number below is that command's, or the default of its `train.py` and `config/train_shakespeare_char.py`; the model is its
`model.py`'s, module for module. On a CPU it computes in float32, with PyTorch's unfused AdamW, and reads the loss after every
step, as here.
"""

import math
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.corpora import TokenShards

D_MODEL, N_HEADS, N_LAYERS, CONTEXT_LENGTH = 128, 4, 4, 64
N_STEPS, WARMUP, BATCH_SIZE = 2000, 100, 12
LEARNING_RATE, LOWEST_LEARNING_RATE = 1e-3, 1e-4
BETAS, WEIGHT_DECAY, CLIP, DROPOUT = (0.9, 0.99), 0.1, 1.0, 0.0


class LayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D_MODEL))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(D_MODEL, 3 * D_MODEL, bias=False)
        self.output = nn.Linear(D_MODEL, D_MODEL, bias=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (N_HEADS, -1)).transpose(1, 2) for part in self.qkv(x).split(D_MODEL, dim=-1))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dropout(self.output(heads.transpose(1, 2).flatten(-2)))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(D_MODEL, 4 * D_MODEL, bias=False)
        self.gelu = nn.GELU()
        self.down = nn.Linear(4 * D_MODEL, D_MODEL, bias=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.gelu(self.up(x))))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.attention_norm = Attention(), LayerNorm()
        self.feed_forward, self.feed_forward_norm = FeedForward(), LayerNorm()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class NanoGPT(nn.Module):
    def __init__(self, vocab_size: int):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocab_size)  # `evaluate` asks for it, and for the device
        self.device = torch.device("cpu")
        self.embedding = nn.Embedding(vocab_size, D_MODEL)  # and, read the other way, the unembedding
        self.position_embedding = nn.Embedding(CONTEXT_LENGTH, D_MODEL)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYERS))
        self.final_norm = LayerNorm()
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                writes = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * N_LAYERS) if writes else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.dropout(self.embedding(ids) + self.position_embedding(positions))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.final_norm(x), self.embedding.weight)


def adamw(model: nn.Module, kind: type[torch.optim.Optimizer] = torch.optim.AdamW) -> torch.optim.Optimizer:
    """Return nanoGPT's optimizer, or another implementation of it: matrices decay, the weights of norms do not."""
    weights = list(model.parameters())
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return kind(groups, lr=LEARNING_RATE, betas=BETAS)


def learning_rate(step: int) -> float:
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / (WARMUP + 1)
    share = (1 + math.cos(math.pi * (step - WARMUP) / (N_STEPS - WARMUP))) / 2
    return LOWEST_LEARNING_RATE + share * (LEARNING_RATE - LOWEST_LEARNING_RATE)


def random_batch(text: TokenShards) -> tuple[Tensor, Tensor]:
    """Return windows that begin anywhere, and the same one character later."""
    starts = torch.randint(len(text) - CONTEXT_LENGTH, (BATCH_SIZE,)).tolist()
    rows = [torch.from_numpy(text[start : start + CONTEXT_LENGTH + 1].astype(np.int64)) for start in starts]
    tokens = torch.stack(rows)
    return tokens[:, :-1], tokens[:, 1:]


def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor, targets: Tensor) -> float:
    """Make one step of training and return the loss before it."""
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def train(text: TokenShards, seed: int) -> tuple[NanoGPT, float]:
    """Train on `text`; return the model and the seconds that the steps took."""
    torch.manual_seed(seed)
    model = NanoGPT(text.vocab_size)
    optimizer = adamw(model)
    start = time.perf_counter()
    for step in range(N_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        make_step(model, optimizer, *random_batch(text))
    return model, time.perf_counter() - start
