"""Packed matrices against a plain computation and PyTorch's own products; SmolLM2 as stored against itself in float32."""

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from course_lib import checkpoints
from course_lib.alignment.policy import weights_fingerprint
from course_lib.architecture import TransformerConfig, TransformerEncoder, TransformerLM
from course_lib.architecture import quantised as library
from course_lib.architecture.quantised import QuantisedEmbedding, QuantisedLinear, quantise
from course_lib.checkpoints import convert, loading
from course_lib.devices import lanes, pick_device
from course_lib.finetuning import LoraConfig, add_lora
from course_lib.finetuning.lora import merge
from course_lib.inference import generate
from course_lib.inference.fused_step import FusedStep
from course_lib.inference.interpret import capture_attention, heads_off

CONFIG = TransformerConfig(vocab_size=100, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=96, context_length=128)
CPU = pick_device("cpu")
pytestmark = pytest.mark.skipif(not lanes(CPU), reason="this processor has no kernel for weights of few bits")
STORED = {"device": CPU, "dtype": torch.float32, "weights": "stored"}
TEXT = "The king is dead, and his son, who is a child of seven years, will be crowned on Sunday in the great church. "


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def stored():
    return checkpoints.load("smollm2-135m-instruct", **STORED)


# ---------------------------------------------------------------- matrices


@pytest.mark.parametrize("n_rows", [64, 100, 5000])  # of 5,000, some are packed at a time
@pytest.mark.parametrize(("bits", "n_steps"), [(4, 15), (8, 254)])
@pytest.mark.parametrize("group", [32, 64])
def test_each_weight_is_the_nearest_of_its_steps(bits, n_steps, group, n_rows):
    weight = random(n_rows, 128)
    rounded = QuantisedLinear.of(weight, bits, group).rows(torch.arange(n_rows))
    groups = weight.unflatten(1, (-1, group))
    least, largest = groups.aminmax(dim=2)
    reach = largest - least if bits == 4 else 2 * groups.abs().amax(dim=2)
    off = (rounded.unflatten(1, (-1, group)) - groups).abs().amax(dim=2)
    step = reach / n_steps
    ends = 2**-8 * groups.abs().amax(
        dim=2
    )  # scale and middle are rounded to bfloat16: the last step may fall short of the end
    assert (off <= step / 2 + ends).all()
    assert off.mean() < 0.55 * step.mean()  # most are the nearest of all
    assert off.mean() > 0.2 * step.mean()  # it does round


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n_vectors", [1, 3, 64, 65, 300])
def test_few_vectors_and_many_are_multiplied_with_the_same_matrix(bits, n_vectors):
    matrix, x = QuantisedLinear.of(random(100, 96), bits, 32), random(n_vectors, 96, seed=1)
    matrix.bias = random(100, seed=2)
    expected = F.linear(x, matrix.rows(torch.arange(100)), matrix.bias)
    torch.testing.assert_close(matrix(x), expected, atol=0.2, rtol=0.01)  # of numbers around 10, in bfloat16
    assert matrix(x).dtype == torch.float32
    assert torch.equal(matrix(x[0]), matrix(x[:1])[0])
    assert matrix(x[:0]).shape == (0, 100) and matrix(x[None, :0]).shape == (1, 0, 100)


def test_more_rows_than_are_written_out_at_once_are_all_there():
    matrix = QuantisedLinear.of(random(5000, 96), 8, 32)
    rows = matrix.rows(torch.arange(5000))
    torch.testing.assert_close(matrix(torch.eye(96)).T, rows, atol=0.02, rtol=0.01)
    look_up = QuantisedEmbedding(matrix)
    ids = torch.tensor([[4999, 0, 63], [64, 31, 32]])
    assert torch.equal(look_up(ids), rows[ids])
    assert torch.equal(look_up(ids[0, 0]), rows[4999]) and look_up(ids[:0]).shape == (0, 3, 96)
    for out in (-1, 5000):
        with pytest.raises(RuntimeError, match="out of DATA bounds"):
            look_up(torch.tensor([out]))


def test_every_byte_is_a_weight_of_its_own():
    steps, scale = torch.arange(-128, 128, dtype=torch.int32).expand(64, 256), torch.full((64, 8), 0.5)
    rows = QuantisedLinear.of_bytes(steps, scale).rows(torch.arange(64))
    assert torch.equal(rows, steps / 2)


def test_a_group_of_equal_weights_stays_what_it_is():
    weight = torch.full((64, 32), 0.5)
    weight[0] = 0
    for bits in (4, 8):
        rounded = QuantisedLinear.of(weight, bits, 32).rows(torch.arange(64))
        torch.testing.assert_close(rounded, weight, atol=0, rtol=0.01)


def test_the_kernel_of_other_processors_lays_rows_out_as_expected():
    """PyTorch has two, and chooses by what the processor can; this variable takes the choice from it."""
    script = """
import torch
from course_lib.architecture.quantised import QuantisedLinear
from course_lib.devices import lanes, pick_device
for bits in (4, 8):
    matrix = QuantisedLinear.of(torch.randn(100, 64), bits, 32)
    for n_vectors in (2, 65):
        x = torch.randn(n_vectors, 64)
        assert (matrix(x) - x @ matrix.rows(torch.arange(100)).T).abs().max() < 0.3
print(lanes(pick_device("cpu")))
"""
    for capability in ("avx2", "default"):
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        if capability == "avx2":
            assert done.stdout.strip() == "32", done.stderr
        else:
            assert "there is no kernel for weights of few bits on cpu" in done.stderr


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("change", [{}, {"tied_embeddings": False}, {"bias": True, "norm": "layernorm"}], ids=str)
@torch.inference_mode()
def test_a_quantised_model_says_nearly_the_same(change):
    torch.manual_seed(0)
    model, ids = TransformerLM(replace(CONFIG, **change)).eval(), torch.arange(90)[None]
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) / 20)
    logits = model(ids)
    errors = [(quantise(model, bits)(ids) - logits).std() / logits.std() for bits in (8, 4)]
    assert errors[0] < 0.03 < errors[1] < 0.5
    assert errors[1] > 4 * errors[0]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sizes", [{}, {"d_model": 96, "n_heads": 6, "d_ff": 160}], ids=["whole lanes", "with padding"])
@torch.inference_mode()
def test_steps_of_generation_equal_the_forward_pass(bits, sizes):
    torch.manual_seed(0)
    packed, ids = quantise(TransformerLM(replace(CONFIG, **sizes)), bits), torch.arange(20)[None]
    assert FusedStep.fits(packed)
    cache = packed.new_cache(1, 20)
    step = FusedStep(packed, cache)
    streams = torch.stack([step(int(token)).clone() for token in ids[0]])
    torch.testing.assert_close(streams, packed.residual(ids)[0], atol=0.05, rtol=0.02)


@torch.inference_mode()
def test_smollm2_as_stored_says_the_same(smollm2, stored):
    (exact, tokenizer), (packed, _) = smollm2, stored
    for name in ("embedding.matrix", "blocks.7.attention.qkv", "blocks.29.feed_forward.down"):
        matrix = packed.get_submodule(name)
        rows = torch.arange(0, matrix.n_rows, 7)
        expected = exact.get_submodule(name.removesuffix(".matrix")).weight[rows]
        largest = expected.unflatten(1, (-1, 32)).abs().amax(dim=2, keepdim=True)
        assert ((matrix.rows(rows) - expected).unflatten(1, (-1, 32)).abs() <= largest / 128).all()
    ids = torch.tensor([tokenizer.encode(TEXT * 3)])
    losses = [F.cross_entropy(model(ids)[0, :-1], ids[0, 1:]).item() for model in (exact, packed)]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert sum(part.nbytes for part in (*packed.parameters(), *packed.buffers())) < 130e6


def test_smollm2_as_stored_writes_and_shows_its_attention(smollm2, stored):
    model, tokenizer = stored
    ids = tokenizer.encode(TEXT)
    assert list(generate(model, tokenizer.encode("The capital of France is"), 2)) == tokenizer.encode(" Paris.")
    maps = [capture_attention(one, torch.tensor(ids)).maps.float() for one in (model, smollm2[0])]
    assert (maps[0] - maps[1]).abs().mean() < 1  # of 255


# ---------------------------------------------------------------- what it is not for


def test_what_needs_gradients_says_how_to_get_them(model):
    packed = quantise(model)
    with pytest.raises(RuntimeError, match=r"load the model without weights='stored', or take the one .* `quantise`"):
        packed.blocks[0](torch.randn(1, 3, 64, requires_grad=True))
    with pytest.raises(ValueError, match="to train or change it"):
        add_lora(packed, LoraConfig())
    with pytest.raises(ValueError, match="to train or change it"):
        packed.embedding.weight.norm()


def test_what_cannot_be_quantised_is_refused(model, monkeypatch):
    with pytest.raises(ValueError, match="bits must be one of"):
        quantise(model, 5)
    with pytest.raises(ValueError, match="group must be one of"):
        quantise(model, group=16)
    with pytest.raises(ValueError, match="quantised already"):
        quantise(quantise(model))
    with pytest.raises(ValueError, match=r"down has rows of 40 weights, which are no whole groups of 32"):
        quantise(TransformerLM(replace(CONFIG, d_ff=40)))
    torch.manual_seed(0)
    broken = TransformerLM(CONFIG)
    broken.blocks[1].attention.output.weight.data[3, 5] = torch.nan
    with pytest.raises(ValueError, match=r"blocks\.1\.attention\.output holds numbers that are NaN"):
        quantise(broken)
    monkeypatch.setattr(library, "lanes", lambda _: 0)
    with pytest.raises(ValueError, match="no kernel for weights of few bits on cpu"):
        quantise(model)


def test_what_a_twin_of_few_bits_would_lack_is_refused(model):
    torch.manual_seed(0)
    adapted = TransformerLM(CONFIG)
    with heads_off(adapted, [(0, 1)]), pytest.raises(ValueError, match="the model has hooks"):
        quantise(adapted)
    add_lora(adapted, LoraConfig())
    with pytest.raises(ValueError, match="an adapter has to be merged first"):
        quantise(adapted)
    merge(adapted)
    quantise(adapted)
    for other in (TransformerEncoder(CONFIG), TransformerLM(CONFIG, cross_attention=True)):
        with pytest.raises(ValueError, match="only a decoder-only TransformerLM"):
            quantise(other)


@torch.inference_mode()
def test_a_packed_model_stays_itself_when_it_is_moved_and_copied(model):
    packed, ids = quantise(model), torch.arange(20)[None]
    expected = packed(ids)
    for moved in (copy.deepcopy(packed), copy.deepcopy(packed).double().float(), copy.deepcopy(packed).share_memory()):
        assert torch.equal(moved(ids), expected)
    assert weights_fingerprint(packed) != weights_fingerprint(quantise(model, 4))


def test_where_there_is_no_kernel_weights_are_written_out(monkeypatch, smollm2):
    monkeypatch.setattr(loading, "lanes", lambda *_: 0)
    with pytest.warns(UserWarning, match="they are written out"):
        model, _ = checkpoints.load("smollm2-135m-instruct", **STORED)
    assert torch.equal(model.embedding.weight, smollm2[0].embedding.weight)


def test_a_damaged_file_of_the_same_size_is_named(tmp_path, monkeypatch):
    folder = convert("smollm2-135m-instruct", n_lanes=lanes(CPU))
    copy = tmp_path / "converted" / folder.name
    shutil.copytree(folder, copy)
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"blocks.3.attention.qkv.scales", b"blocks.3.attention.qkv.scalez", 1))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=f"{folder.name} is damaged .*delete it"):
        checkpoints.load("smollm2-135m-instruct", **STORED)


def test_only_files_with_blocks_have_them(tmp_path):
    with pytest.raises(ValueError, match=r"weights='stored' is for smollm2-135m-instruct; load .* and `quantise` it"):
        checkpoints.load(tmp_path, weights="stored")
    with pytest.raises(ValueError, match="weights must be one of"):
        checkpoints.load("smollm2-135m-instruct", weights="packed")
