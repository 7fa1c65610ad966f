"""The encoder, and the encoder-decoder of 2017, against torch.nn's on the same weights; positions, masks and caches."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from course_lib.architecture import EncoderDecoder, TransformerConfig, TransformerEncoder, TransformerLM
from course_lib.architecture.attention import MultiHeadAttention, padding_mask
from course_lib.architecture.transformer import Residual
from course_lib.devices import seed_everything

VANILLA = TransformerConfig(
    vocab_size=50, d_model=24, n_layers=3, n_heads=4, d_ff=40, context_length=16,
    positions="sinusoidal", norm="layernorm", norm_position="post", feed_forward="relu", bias=True, scaled_embeddings=True,
)  # fmt: skip
MODERN = replace(VANILLA, positions="rope", norm="rmsnorm", norm_position="pre", feed_forward="swiglu", bias=False)
PLACES = pytest.mark.parametrize("place", ["post", "pre"])
CONFIGS = pytest.mark.parametrize(
    "config", [VANILLA, MODERN, replace(VANILLA, positions="alibi"), replace(VANILLA, positions="learned")],
    ids=["2017", "modern", "alibi", "learned"],
)  # fmt: skip


def randomise(module: nn.Module) -> None:
    generator = seed_everything(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn(parameter.shape, generator=generator))


def source_and_target() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids (2, 9) and (2, 6), and the mask of a source of which the second is padded."""
    generator = seed_everything(1)
    source, target = torch.randint(50, (2, 9), generator=generator), torch.randint(50, (2, 6), generator=generator)
    return source, target, padding_mask(torch.tensor([9, 5]), 9)


# ---------------------------------------------------------------- equal to torch.nn on the same weights


def give_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    ours.qkv.weight.copy_(theirs.in_proj_weight)
    ours.qkv.bias.copy_(theirs.in_proj_bias)
    give(ours.output, theirs.out_proj)


def give(ours: nn.Module, theirs: nn.Module) -> None:
    ours.weight.copy_(theirs.weight)
    ours.bias.copy_(theirs.bias)


def norm_of(residual: Residual) -> nn.Module:
    return next(module for module in residual.children() if len(list(module.parameters())))


@torch.no_grad()
def give_stack(ours: TransformerEncoder | TransformerLM, theirs: nn.Module) -> None:
    for block, layer in zip(ours.blocks, theirs.layers, strict=True):
        give_attention(block.attention, layer.self_attn)
        residuals, norms = [block.attention_residual, block.feed_forward_residual], [layer.norm1, layer.norm2]
        if block.cross_attention is not None:
            give_attention(block.cross_attention, layer.multihead_attn)
            residuals.insert(1, block.cross_attention_residual)
            norms.append(layer.norm3)
        for residual, norm in zip(residuals, norms, strict=True):
            give(norm_of(residual), norm)
        give(block.feed_forward.up, layer.linear1)
        give(block.feed_forward.down, layer.linear2)
    if theirs.norm is not None:
        give(ours.final_norm, theirs.norm)


def torchs(place: str) -> nn.Transformer:
    """torch.nn's encoder-decoder, whose last norms, as ours, are there only with pre-norm."""
    options = {"d_model": 24, "nhead": 4, "dim_feedforward": 40, "dropout": 0.0, "batch_first": True}
    options["norm_first"] = place == "pre"
    norms = [nn.LayerNorm(24) if place == "pre" else None for _ in range(2)]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**options), 3, norms[0], enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**options), 3, norms[1])
    theirs = nn.Transformer(d_model=24, nhead=4, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)
    randomise(theirs)
    return theirs.eval()


@PLACES
@torch.no_grad()
def test_encoder_decoder_equals_torch(place):
    theirs, ours = torchs(place), EncoderDecoder(replace(VANILLA, norm_position=place)).eval()
    give_stack(ours.encoder, theirs.encoder)
    give_stack(ours.decoder, theirs.decoder)
    source, target, mask = source_and_target()
    entered = []
    for stack in (ours.encoder, ours.decoder):  # what enters the first block, embedded and with its positions
        stack.dropout.register_forward_hook(lambda _module, _args, x: entered.append(x))
    logits = ours(source, target, mask)
    hidden = ~mask[:, 0, 0]  # torch.nn's masks say True for what may not be attended to
    expected = theirs(
        *entered,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(6),
        src_key_padding_mask=hidden,
        memory_key_padding_mask=hidden,
    )
    torch.testing.assert_close(logits, F.linear(expected, ours.decoder.embedding.weight), atol=1e-4, rtol=1e-4)


def test_sinusoids_are_those_of_the_paper():
    ours = EncoderDecoder(VANILLA)
    entered = []
    ours.encoder.dropout.register_forward_hook(lambda _module, _args, x: entered.append(x))
    ids = torch.tensor([[3, 7, 3]])
    ours.encoder(ids)
    signal = entered[0] - ours.encoder.embedding(ids) * 24**0.5
    position, pair = 2, 5
    angle = torch.tensor(position / 10_000 ** (2 * pair / 24))
    torch.testing.assert_close(signal[0, position, 2 * pair : 2 * pair + 2], torch.stack([angle.sin(), angle.cos()]))


# ---------------------------------------------------------------- what it may see


@CONFIGS
@torch.no_grad()
def test_padding_of_the_source_changes_nothing(config):
    model = EncoderDecoder(config).eval()
    randomise(model)
    source, target, mask = source_and_target()
    alone = model(source[1:, :5], target[1:])
    torch.testing.assert_close(model(source, target, mask)[1:], alone, atol=1e-4, rtol=1e-4)


@CONFIGS
@torch.no_grad()
def test_decoder_sees_the_whole_source_and_its_own_past_only(config):
    model = EncoderDecoder(config).eval()
    randomise(model)
    source, target, _ = source_and_target()
    logits = model(source, target)
    other_target = target.clone()
    other_target[:, 4] += 1
    torch.testing.assert_close(model(source, other_target)[:, :4], logits[:, :4])
    for place in range(9):
        other_source = source.clone()
        other_source[:, place] = (other_source[:, place] + 1) % 50
        assert not torch.allclose(model(other_source, target)[:, 0], logits[:, 0])


@CONFIGS
@torch.no_grad()
def test_cached_decoding_equals_uncached(config):
    model = EncoderDecoder(config).eval()
    randomise(model)
    source, target, mask = source_and_target()
    memory, cache = model.encode(source, mask), model.decoder.new_cache(2, 6)
    cached = torch.cat([model.decode(part, memory, cache) for part in target.split([1, 1, 3, 1], dim=1)], dim=1)
    torch.testing.assert_close(cached, model(source, target, mask), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_positions_an_encoder_does_not_know_the_order():
    model = TransformerEncoder(replace(MODERN, positions="none")).eval()
    ids, order = torch.randint(50, (1, 7)), torch.randperm(7)
    torch.testing.assert_close(model(ids[:, order]), model(ids)[:, order])


def test_both_halves_share_one_embedding_matrix():
    model = EncoderDecoder(VANILLA)
    assert model.encoder.embedding.weight is model.decoder.embedding.weight
    assert sum(parameter.shape == (50, 24) for parameter in model.parameters()) == 1


def test_dropout_is_there_in_training_only():
    model = EncoderDecoder(replace(VANILLA, dropout=0.5))
    source, target, _ = source_and_target()
    assert not torch.equal(model(source, target), model(source, target))
    model.eval()
    assert torch.equal(model(source, target), model(source, target))


@CONFIGS
def test_every_tensor_lives_on_the_models_device(config):
    with FakeTensorMode(), torch.device("meta"):
        model = EncoderDecoder(config)
        source, target = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 6, dtype=torch.long)
        mask = padding_mask(torch.zeros(2, dtype=torch.long), 9)
        memory, cache = model.encode(source, mask), model.decoder.new_cache(2, 6)
        assert model.decode(target, memory, cache).device.type == "meta"
