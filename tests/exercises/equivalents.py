"""The mutants of each exercise's solution that pass its check, by the reason why they are right answers."""

__all__ = ["EQUIVALENT"]

_AXES = "the same two axes, exchanged"
_WIDTH = "queries, keys (and, where heads are split, values) have the same d"
_SCORES = "scores = q @ k.transpose({}) / math.sqrt({}.shape[-1])"
_SPLIT = "q, k, v = ((x @ w).view(batch, position, n_heads, -1).transpose({}) for w in (w_q, w_k, w_v))"
_JOIN = "return out.transpose({}).reshape(batch, position, -1) @ w_o"
_LAYERS = "self.{}, self.{}, self.{} = (nn.Linear(d_model, width, bias=False) for _ in range(3))"
_PARTS = "q, k, v = (part(x).unflatten(-1, (self.n_heads, -1)).transpose({}) for part in (self.q, self.k, self.v))"
_SHARE = "k, v = (kv.repeat_interleave(q.shape[1] // {}.shape[1], dim=1) for kv in (k, v))"
_KEPT = "kept = torch.zeros_like({}).scatter({}, order, likeliest * keep)"
_LOSS = "return F.cross_entropy({}, {}) / math.log(2)"

_ONE_TEXT = {
    "the batch is of one text, so the first is the last": {
        _LOSS.format("logits[-1, :-1].float()", "ids[0, 1:]"),
        _LOSS.format("logits[0, :-1].float()", "ids[-1, 1:]"),
    },
    "logits are in float32 already; on a GPU, in bfloat16, it is a matter of digits": {
        _LOSS.format("logits[0, :-1]", "ids[0, 1:]"),
    },
}
_LAST_OF_TWO = "axis 1 of 2 is the last one"
_NO_ITEM = "a tensor with one number counts as the number"

EQUIVALENT: dict[str, dict[str, set[str]]] = {
    "01.3": {_AXES: {_SCORES.format("-1, -2", "q")}, _WIDTH: {_SCORES.format("-2, -1", "k")}},
    "01.4": {_AXES: {_SCORES.format("-1, -2", "q")}, _WIDTH: {_SCORES.format("-2, -1", "k")}},
    "01.6": {
        "a row broadcasts against a column with or without an axis of 1 before it": {
            "distance = position[:, None] - position",
            "distance = position[:, None] - position[:,]",
            "distance = position[:, None] - position[None,]",
        }
    },
    "01.7": _ONE_TEXT | {_NO_ITEM: {"sink_bits = bits(model(ids, mask=window)) - bits(model(ids, mask=with_sink))"}},
    "01.8": {
        _AXES: {_SCORES.format("-1, -2", "q")},
        "queries and keys have the same d, and their matrices have as many columns": {
            _SCORES.format("-2, -1", name) for name in ("k", "w_q", "w_k")
        },
    },
    "02.4": {
        _AXES: {
            *(_SPLIT.format(axes) for axes in ("2, 1", "1, -2")),
            *(_SCORES.format(axes, "q") for axes in ("-1, -2", "2, -1")),
            *(_JOIN.format(axes) for axes in ("2, 1", "1, -2")),
        },
        _WIDTH: {_SCORES.format("-2, -1", "k"), _SCORES.format("-2, -1", "v")},
    },
    "02.5": {
        _AXES: {
            *(_PARTS.format(axes) for axes in ("2, 1", "1, -2")),
            *(_SCORES.format(axes, "q") for axes in ("-1, -2", "2, -1")),
            *(f"return self.output((weights @ v).transpose({axes}).flatten(2))" for axes in ("2, 1", "1, -2")),
        },
        "axis 2 of 4 is the one before the last": {"return self.output((weights @ v).transpose(1, 2).flatten(-2))"},
        _WIDTH: {_SCORES.format("-2, -1", "k"), _SCORES.format("-2, -1", "v")},
        "three layers of one shape, which get their weights later": {
            *(_LAYERS.format(*names) for names in ("kqv", "qvk", "vkq")),
        },
    },
    "02.7": {
        "axis 2 of 4 is the one before the last": {
            "angle = torch.arange(x.shape[-2])[:, None] * theta ** (-2 * torch.arange(half) / x.shape[-1])"
        }
    },
    "02.9": {
        _AXES: {_SCORES.format(axes, "q") for axes in ("-1, -2", "2, -1")},
        _WIDTH: {_SCORES.format("-2, -1", "k"), _SCORES.format("-2, -1", "v")},
        "keys and values have the same number of heads": {_SHARE.format("kv"), _SHARE.format("v")},
    },
    "02.10": {
        "keys and values have the same shape": {
            "keys = keys.mean(dim=2, keepdim=True).expand_as(values)",
            "values = values.mean(dim=2, keepdim=True).expand_as(keys)",
        },
        "axis 2 of 4 is the one before the last": {
            "queries, keys, values = out.unflatten(-1, (15, 64)).split([9, 3, 3], dim=-2)",
            "keys = keys.mean(dim=-2, keepdim=True).expand_as(keys)",
            "values = values.mean(dim=-2, keepdim=True).expand_as(values)",
            "return torch.cat([queries, keys, values], dim=-2).flatten(2)",
            "return torch.cat([queries, keys, values], dim=2).flatten(-2)",
        },
    },
    "03.6": {
        "logits have one axis: the first is the last": {
            "probabilities = logits.softmax(dim=-1)",
            "keep = likeliest.cumsum(dim=-1) - likeliest < p",
            _KEPT.format("likeliest", -1),
        },
        "`order` holds every index, so every entry is written over, and all three have one shape": {
            "kept = likeliest.scatter(0, order, likeliest * keep)",
            "kept = torch.ones_like(likeliest).scatter(0, order, likeliest * keep)",
            _KEPT.format("logits", 0),
            _KEPT.format("probabilities", 0),
        },
        "a sum can be exactly p only where all logits are equal (Lindemann–Weierstrass), and which of equal tokens to keep is "
        "left open: no answer is the one right answer there": {"keep = likeliest.cumsum(dim=0) - likeliest <= p"},
    },
    "03.5": {
        "on a CPU, new tensors lie where all others do": {"positions = torch.arange(ids.shape[1])"},
        "axis 1 of 2 is the last": {"positions = torch.arange(ids.shape[-1], device=ids.device)"},
    },
    "03.9": {
        "an index that is left out at the end takes all": {"hidden = ~real[:, None]"},
        "queries, keys and values, and their matrices, have the same d_head": {
            f"scores = q @ k.mT / math.sqrt({other}.shape[-1])" for other in ("q", "v", "w_q", "w_k", "w_v")
        },
    },
    "03.8": _ONE_TEXT | {_NO_ITEM: {"skip_bits = bits(logits) - bits(model(ids))"}},
    "04.2": {
        _AXES: {"losses = F.cross_entropy(predictions.transpose(2, 1), targets, reduction='none')"},
    },
    "04.6": {
        "every pair's count is too high, or too low, by the same 1": {
            "counts[pair] = counts.get(pair, 1) + n",
            "counts[pair] = counts.get(pair, -1) + n",
        }
    },
    "04.4": {"the optimizer holds the model's parameters, all of them": {"model.zero_grad()"}},
    "04.9": {
        _NO_ITEM: {
            "return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) / math.log(2)",
        }
    },
    "04.5": {
        "the optimizer holds the model's parameters, all of them": {"model.zero_grad()"},
        "−0 is 0": {"n_targets, total = ((targets != -100).sum(), -0.0)"},
    },
    "04.12": {
        "the order of a sum": {
            "parts = ((1, 12), (2, 2), (3, 2))",
            "parts = ((2, 2), (3, 2), (1, 12))",
            "parts = ((3, 2), (1, 12), (2, 2))",
        }
    },
    "05.9": {
        _NO_ITEM: {
            "return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) / math.log(2)",
        },
        "−0 is 0": {"forgotten_bits = bits(taught_capitals(-0.0)) - bits(planted.model)"},
    },
    "05.2": {"axis 1 of 2 is the last": {"means = gains[draws].mean(dim=-1)"}},
    "05.7": {"the copy begins as what it is a copy of": {"for name, weight in whole.items():"}},
    "05.5": {
        "the batch is of one chat, so the first is the last": {
            "logits = model(ids)[-1]",
            "losses = F.cross_entropy(logits[:-1], ids[-1, 1:], reduction='none')",
        },
        "both lists are empty": {"trained, ids = ([], [])"},
        "a list of booleans picks out what the tensor of them does": {
            "ids, trained = (torch.tensor([ids]), trained)",
        },
    },
    "06.3": {
        _LAST_OF_TWO: {
            "last = written & (written.flip(-1).cumsum(dim=1).flip(1) == 1)",
            "last = written & (written.flip(1).cumsum(dim=-1).flip(1) == 1)",
            "last = written & (written.flip(1).cumsum(dim=1).flip(-1) == 1)",
        }
    },
    "06.4": {
        "all of them have one shape": {
            "advantages = torch.zeros_like(rewards)",
            *(f"for t in reversed(range({name}.shape[1])):" for name in ("rewards", "written", "advantages")),
        },
        "every position is written over": {"advantages = torch.ones_like(values)"},
        _LAST_OF_TWO: {"for t in reversed(range(values.shape[-1])):"},
    },
    "06.6": {
        _LAST_OF_TWO: {
            "centred = rewards - rewards.mean(dim=-1, keepdim=True)",
            "advantages = centred / (rewards.std(dim=-1, keepdim=True) + 0.0001)",
        },
        "rewards spread as far whatever is taken off them": {
            "advantages = centred / (centred.std(dim=1, keepdim=True) + 0.0001)",
        },
        "any number does that is far below the spread of rewards, but for 0": {
            "advantages = centred / (rewards.std(dim=1, keepdim=True) - 0.0001)",
            "advantages = centred / (rewards.std(dim=1, keepdim=True) + -0.0001)",
        },
        "the smaller one of two, exchanged": {"losses = -torch.minimum(held * advantages, ratio * advantages)"},
    },
    "06.7": {
        "a constant has no spread": {
            f"spread_3 = mean_and_spread(torch.exp(-d) {constant}+ d, policy)[1]"
            for constant in ("", "+ 1 ", "* 1 ", "/ 1 ", "- 2 ", "- 0 ", "- -1 ")
        },
        "mean and spread are two": {"spread_3 = mean_and_spread(torch.exp(-d) - 1 + d, policy)[-1]"},
        "one axis is the last one": {"policy = (logits + drift * direction).log_softmax(dim=0)"},
        "softmax takes off what is added to all": {
            "policy = (reference + drift * direction).log_softmax(dim=-1)",
        },
    },
    "07.2": {
        "a system turn more is not a step of two more": {"for start in range(0, len(turns), 2):"},
    },
    "07.9": {
        "sorting on a processor keeps the order of equals, and promises to do so only if asked": {
            "order = scores.argsort(descending=True)",
            "order = scores.argsort(descending=True, stable=False)",
        },
    },
    "07.5": {
        "n + 1 of n pairs are never green": {
            "chances = [math.comb(n, i) * gamma ** i * (1 - gamma) ** (n - i) for i in range(n_green, n + 2)]",
        },
    },
    "07.7": {
        "whole numbers divided give float32, which is precise enough": {"before = torch.arange(n)"},
        "there is one axis: the first is the last": {"none_right = each_wrong.cumprod(dim=-1)"},
    },
    "07.3": {
        "a date's last row is empty, as is the one that is added": {
            "fits = [digits] * 4 + [b'-'] + [digits] * 2 + [b'-'] + [digits] * 2 + []",
            "fits = [digits] * 4 + [b'-'] + [digits] * 2 + [b'-'] + [digits] * 2",
        },
    },
    "07.4": {
        "the ratio of two sums is that of two means": {
            "return next_logits(message).softmax(dim=-1)[may_begin].mean()",
        },
        "the logits have one axis: the first is the last": {
            "return next_logits(message).softmax(dim=0)[may_begin].sum()"
        },
        _NO_ITEM: {"times_as_much = share(moon_question + its_form) / share(moon_question)"},
    },
}
"""Exercise id -> reason -> the changed lines, as `mutants` gives them."""
