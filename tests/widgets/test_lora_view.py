"""LoraView: its numbers against `torch.linalg.svd`, its answers against `generate`, and what a learner does with it."""

import base64
import copy
import re

import pytest
import torch
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from playwright.sync_api import Locator, Page, expect

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.transformer import Block
from course_lib.devices import seed_everything
from course_lib.finetuning import LoraConfig, add_lora, merge
from course_lib.finetuning.lora import TARGETS
from course_lib.inference import generate, stream_reply
from course_lib.inference.fused_step import FusedStep
from course_lib.tokenization import Tokenizer, train_bpe
from course_lib.widgets import LoraView
from course_lib.widgets.lora_view.matrices import pool
from course_lib.widgets.lora_view.widget import NEW_TOKENS

PROMPT, RANK, ALPHA = "Tom sees", 3, 6.0
SETUP = """
import torch
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.finetuning import LoraConfig, add_lora
from course_lib.tokenization import train_bpe
from course_lib.widgets import LoraView
torch.manual_seed(0)
tokenizer = train_bpe(["Tom sees the cat. " * 9], 266)
model = TransformerLM(TransformerConfig(266, 128, 3, 4, 256, 64, n_kv_heads=2))
add_lora(model, LoraConfig(8, targets=("q_proj", "v_proj", "up_proj", "down_proj")))
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if name.split(".")[-2] == "up" and parameter.requires_grad:
            parameter += torch.randn_like(parameter) * torch.logspace(0.5, -1.5, 8)
"""
CELLS = [SETUP, f"view = LoraView(model, tokenizer, {PROMPT!r})\nview"]
PATIENCE = 60_000  # ms: two answers of the small model take a second or two, if the machine has nothing else to do


# ---------------------------------------------------------------- in Python


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["Tom sees the cat. " * 9], 266)


@pytest.fixture
def plain() -> TransformerLM:
    """A small model with unequal numbers of rows and columns, of queries and of keys."""
    seed_everything(0)
    shape = {"d_model": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_ff": 40, "context_length": 64}
    return TransformerLM(TransformerConfig(vocab_size=266, **shape)).eval()


@pytest.fixture
def model(plain) -> TransformerLM:
    return trained(copy.deepcopy(plain), TARGETS)


def trained(model: TransformerLM, targets: tuple[str, ...]) -> TransformerLM:
    """Give `model` an adapter that changes its answers."""
    add_lora(model, LoraConfig(RANK, ALPHA, targets))
    for name, parameter in model.named_parameters():
        if name.split(".")[-2] == "up" and parameter.requires_grad:
            parameter.data.normal_()
    return model


@pytest.fixture
def view(model, tokenizer) -> LoraView:
    return LoraView(model, tokenizer, PROMPT)


def shown(view: LoraView, name: str) -> torch.Tensor:
    rows, columns = {"a": (view.result["r"], -1), "b": (-1, view.result["r"])}.get(name, view.result["cells"])
    return torch.frombuffer(bytearray(view.result["maps"][name]), dtype=torch.float32).view(rows, columns)


def written(model: TransformerLM, tokenizer: Tokenizer) -> str:
    """What `generate` writes after the prompt."""
    return tokenizer.decode(generate(model, tokenizer.encode_prompt(PROMPT), NEW_TOKENS, stop_ids=tokenizer.end_ids))


@pytest.mark.parametrize("name", TARGETS)
def test_maps_are_the_matrices_of_the_model(view, plain, model, name):
    view.set(layer=1, matrix=name)
    place = {"o_proj": "attention.output", "down_proj": "feed_forward.down"}.get(
        name, "feed_forward.up" if name in ("gate_proj", "up_proj") else "attention.qkv"
    )
    start = {"k_proj": 32, "v_proj": 48, "up_proj": 40}.get(name, 0)  # 4 heads of 8, 2 of 8, 40 rows of the gate
    adapted = model.blocks[1].get_submodule(place)
    a, b = adapted.down[name].detach(), adapted.up[name].detach()
    weight = plain.blocks[1].get_submodule(place).weight.detach()[start : start + len(b)]
    update = ALPHA / RANK * b @ a
    assert view.result["shape"] == [len(b), a.shape[1]] and view.result["block"] == 1
    for key, wanted in (("frozen", weight), ("a", a), ("b", b), ("update", update), ("sum", weight + update)):
        torch.testing.assert_close(shown(view, key), wanted)
    assert (
        view.result["limits"]["frozen"]
        == view.result["limits"]["sum"]
        == max(weight.abs().max().item(), (weight + update).abs().max().item())
    )
    assert view.result["change"] == pytest.approx((update.norm() / weight.norm()).item(), rel=1e-5)


@pytest.mark.parametrize("rank", range(1, RANK + 1))
def test_an_approximation_is_the_truncated_svd_and_keeps_its_share(view, rank):
    view.set(layer=0, matrix="down_proj", rank=rank)
    u, values, v = torch.linalg.svd(shown(view, "update").double(), full_matrices=False)
    best = (u[:, :rank] * values[:rank] @ v[:rank]).float()
    torch.testing.assert_close(shown(view, "approximation"), best, atol=1e-5, rtol=1e-5)
    assert view.result["singular"] == pytest.approx(values[:RANK].tolist(), rel=1e-5)
    assert view.kept == pytest.approx((best.norm() / shown(view, "update").norm()).item() ** 2, rel=1e-5)
    assert view.kept == pytest.approx(1) if rank == RANK else view.kept < 0.999


def test_a_rank_above_the_matrix_is_shown_too(plain, tokenizer):
    add_lora(plain, LoraConfig(20, targets=("k_proj",)))  # of 16 rows
    torch.nn.init.normal_(plain.blocks[0].attention.qkv.up["k_proj"])
    view = LoraView(plain, tokenizer, PROMPT)
    assert len(view.result["singular"]) == 16 and view.settings["rank"] == 20 and view.kept == 1
    torch.testing.assert_close(shown(view, "approximation"), shown(view, "update"), atol=1e-5, rtol=1e-5)


def test_cells_are_means_so_that_sums_and_products_of_what_is_shown_are_true():
    seed_everything(0)
    w, a, b = torch.randn(10, 7), torch.randn(2, 7), torch.randn(10, 2)
    small = pool(w, 3, 3)
    assert small.shape == (4, 3)
    assert small[1, 0] == pytest.approx(w[3:6, :3].mean().item()) and small[3, 2] == pytest.approx(w[9, 6].item())
    torch.testing.assert_close(pool(w, 3, 3) + pool(b @ a, 3, 3), pool(w + b @ a, 3, 3))
    torch.testing.assert_close(pool(b, 3, 1) @ pool(a, 1, 3), pool(b @ a, 3, 3))


def test_a_large_matrix_has_96_cells_along_its_longer_side(tokenizer):
    shape = TransformerConfig(vocab_size=266, d_model=32, n_layers=1, n_heads=2, d_ff=200, context_length=64)
    view = LoraView(trained(TransformerLM(shape), ("down_proj",)), tokenizer, PROMPT)
    assert (view.result["shape"], view.result["block"], view.result["cells"]) == ([32, 200], 3, [11, 67])
    torch.testing.assert_close(2 * shown(view, "b") @ shown(view, "a"), shown(view, "update"), atol=1e-5, rtol=1e-4)


def test_what_is_trained_is_counted(view, plain):
    rows = {"q_proj": 32, "k_proj": 16, "v_proj": 16, "o_proj": 24, "gate_proj": 40, "up_proj": 40, "down_proj": 24}
    columns = {"o_proj": 32, "down_proj": 40}
    trained = 2 * RANK * sum(rows[name] + columns.get(name, 24) for name in TARGETS)
    frozen = sum(parameter.numel() for parameter in plain.parameters())
    assert view.result["model"] == (trained, frozen)
    assert f"{100 * trained / frozen:.2g} % of the weights" in repr(view)


def test_answers_are_those_of_generate_with_the_update_scaled(view, plain, model, tokenizer):
    assert not FusedStep.fits(model)
    base = written(plain, tokenizer)
    assert view.answers == (base, written(model, tokenizer)) and view.answers[0] != view.answers[1]
    for scale in (0.5, 2.0, 0.0):
        view.set(scale=scale)
        scaled = copy.deepcopy(plain)
        for ours, theirs in zip(scaled.blocks, model.blocks, strict=True):
            for place in ("attention.qkv", "attention.output", "feed_forward.up", "feed_forward.down"):
                ours.get_submodule(place).weight.data += scale * theirs.get_submodule(place).update().detach()
        assert view.answers == (base, written(scaled, tokenizer))


def test_a_model_that_chats_replies(smollm2):
    _, tokenizer = smollm2
    shape = TransformerConfig(tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, d_ff=16, context_length=128)
    plain = TransformerLM(shape).eval()
    view = LoraView(trained(copy.deepcopy(plain), ("v_proj",)), tokenizer, "Hello")
    messages = [{"role": "user", "content": "Hello"}]
    assert view.answers[0] == "".join(stream_reply(plain, tokenizer, messages, NEW_TOKENS))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory")])
def test_the_model_is_left_as_it_was(view, model, monkeypatch, error):
    def state() -> tuple:
        parts = [(part.training, getattr(part, "scale", None)) for part in model.modules()]
        return parts, {name: parameter.clone() for name, parameter in model.named_parameters()}

    model.train()
    model.blocks[1].eval()
    parts, weights = state()
    before, calls = (view.settings, view.result), 0
    forward = Block.forward

    def fail(block, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error
        return forward(block, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Block, "forward", fail)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            view.set(scale=1.5)
    assert (view.settings, view.result) == before
    view.set(scale=1.5)
    now, now_weights = state()
    assert now == parts and all(torch.equal(weights[name], now_weights[name]) for name in weights)


def test_a_prompt_is_answered_anew_after_more_training(view, model, tokenizer):
    for module in model.modules():
        for b in getattr(module, "up", {}).values() if hasattr(module, "sizes") else ():
            b.data.normal_()
    view.answer(PROMPT)
    assert view.answers[1] == written(model, tokenizer)


def test_an_update_of_zeros_and_one_that_has_diverged_are_said(plain, tokenizer):
    add_lora(plain, LoraConfig(RANK))
    view = LoraView(plain, tokenizer, PROMPT)
    assert view.kept is None and view.result["singular"] == [0] * RANK and view.answers[0] == view.answers[1]
    assert view.settings["layer"] == 0 and view._repr_mimebundle_()[0]["image/png"]
    plain.blocks[1].attention.qkv.up["q_proj"].data.fill_(torch.nan)
    with pytest.raises(ValueError, match="has diverged"):
        view.set(layer=1, matrix="q_proj")


def test_what_cannot_be_is_refused(view, model, plain, tokenizer):
    before = view.settings
    for changes, complaint in (
        ({"layer": 2}, "layer must be at least 0 and at most 1"),
        ({"matrix": "lm_head"}, "matrix must be one of"),
        ({"rank": RANK + 1}, "rank must be at least 1 and at most 3"),
        ({"scale": 2.5}, "scale must be at least 0 and at most 2"),
        ({"prompt": ""}, "The text is empty"),
        ({"prompt": PROMPT * 40}, "fit: shorten it"),
    ):
        with pytest.raises(ValueError, match=complaint):
            view.set(**changes)
    assert view.settings == before
    with pytest.raises(ValueError, match="no adapter to show"):
        LoraView(plain, tokenizer, PROMPT)
    merge(model)
    with pytest.raises(ValueError, match="no adapter to show"):
        view.set(rank=1)


def test_saved_notebooks_hold_a_picture_and_one_line_of_text(view):
    bundle, _ = view._repr_mimebundle_()
    assert bundle["text/plain"].startswith("LoraView: rank 3 in q_proj, k_proj, v_proj, o_proj, gate_proj")
    assert 10_000 < len(base64.b64decode(bundle["image/png"])) < 200_000


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def widget(page) -> Locator:
    """The widget with v_proj of layer 1, all directions, and the update as it was trained."""
    widget = page.locator(".lora-view")
    widget.get_by_role("button", name="v_proj").click()
    for name, place in (("layer", 1), ("rank kept", 7), ("The update counts", 10)):
        widget.get_by_role("slider", name=name).fill(str(place))
    row(widget, "this v_proj").wait_for()
    expect(widget.locator(".said")).to_contain_text("Rank 8 keeps 100 %", timeout=PATIENCE)
    expect(update(widget)).to_have_attribute("aria-label", re.compile("v_proj of layer 1"), timeout=PATIENCE)
    return widget


def row(widget: Locator, name: str) -> Locator:
    return widget.get_by_role("row", name=name)


def update(widget: Locator) -> Locator:
    return widget.get_by_role("application")


def test_a_rank_below_r_says_what_it_keeps_and_that_it_is_a_picture(widget, page):
    widget.get_by_role("slider", name="rank kept").focus()
    page.keyboard.press("Home")
    said = widget.locator(".said")
    expect(said).to_have_text(re.compile(r"^Rank 1 keeps \d\d(\.\d)? % of the update"), timeout=PATIENCE)
    expect(widget.locator(".values li.in")).to_have_count(1)
    expect(widget.locator(".values li.out")).to_have_count(7)
    expect(widget.locator(".rank")).to_contain_text("192 numbers would hold it")  # 64 + 128
    expect(widget.locator(".rank")).to_contain_text("the model and its answers keep all 8 directions")
    screenshot(widget, "lora_view_rank_1")


def test_counts_are_shown(widget):
    expect(row(widget, "this v_proj").get_by_role("cell")).to_have_text(["1,536", "8,192", "18.8 %"])
    trained = 3 * 8 * ((128 + 128) + (64 + 128) + 2 * (256 + 128))
    expect(row(widget, "the model").get_by_role("cell").first).to_have_text(f"{trained:,}")


def test_cells_are_read_by_keyboard_and_mouse(widget, page):
    readout = widget.locator(".readout")
    update(widget).focus()
    page.keyboard.press("ArrowRight")
    expect(readout).to_have_text(re.compile(r"^Row 0–1, column 0–1: W −?[\d.]+, update −?[\d.e-]+, sum −?[\d.]+$"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(readout).to_contain_text("Row 2–3, column 2–3")
    expect(widget.locator("[aria-live]")).to_contain_text("Row 2–3, column 2–3")
    screenshot(widget, "lora_view_cell")
    page.keyboard.press("Escape")
    expect(readout).to_have_text(re.compile("^Point at a cell"))
    widget.get_by_role("img", name="W, frozen").hover(position={"x": 1, "y": 1})
    expect(readout).to_contain_text("Row 0–1, column 0–1")
    page.mouse.move(0, 0)
    expect(readout).to_have_text(re.compile("^Point at a cell"))


def test_the_answers_follow_the_scale_and_the_prompt(widget):
    base, own = widget.locator(".base .text"), widget.locator(".own .text")
    expect(own).not_to_be_empty()
    widget.get_by_role("slider", name="The update counts").fill("0")
    expect(widget.locator(".same")).to_have_text("The two answers are the same.", timeout=PATIENCE)
    assert own.inner_text() == base.inner_text()
    expect(widget.get_by_role("heading", name="W + 0 · update")).to_be_visible()
    widget.get_by_role("slider", name="The update counts").fill("20")
    expect(widget.get_by_role("heading", name="W + 2 · update")).to_be_visible()
    prompt = widget.get_by_role("textbox", name="Prompt")
    before = base.inner_text()
    prompt.fill("<img src=x onerror=alert(1)> cat")
    prompt.press("Enter")
    expect(base).not_to_have_text(before, timeout=PATIENCE)
    expect(widget.get_by_role("alert")).to_have_text("")
    assert widget.locator("img, script").count() == 0
    prompt.fill("")
    prompt.press("Enter")
    expect(widget.get_by_role("alert")).to_contain_text("The text is empty", timeout=PATIENCE)
    prompt.fill(PROMPT)
    prompt.press("Enter")
    expect(base).to_have_text(before, timeout=PATIENCE)


def test_dark_theme_is_followed_while_the_widget_is_open(widget, page):
    screenshot(widget, "lora_view_light")
    light = update(widget).evaluate("canvas => canvas.toDataURL()")
    use_theme(page, "JupyterLab Dark")
    page.wait_for_function("light => document.querySelector('.factors canvas').toDataURL() !== light", arg=light)
    screenshot(widget, "lora_view_dark")
    use_theme(page, "JupyterLab Light")


@pytest.mark.parametrize("matrix", ["v_proj", "up_proj", "down_proj"])  # wide, tall, wide
@pytest.mark.parametrize("width", [860, 1110, 1560])
def test_nothing_is_cut_off_at_any_width(widget, page, width, matrix):
    widget.get_by_role("button", name=matrix).click()
    expect(row(widget, f"this {matrix}")).to_be_visible(timeout=PATIENCE)
    expect(widget.get_by_role("button", name=matrix)).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)
    page.set_viewport_size({"width": width, "height": 2300})
    screenshot(widget, f"lora_view_{width}_{matrix}")
    parts = "section, table, figure, .terms, .term, .kept, .answers, .controls, .slider > *"
    assert cut_off([widget, *widget.locator(parts).all()]) == []
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_notebook_7_runs_it_and_a_kernel_that_is_gone_is_said_to_be(open_notebook):
    page = open_notebook(CELLS, app="notebook", reduced_motion="reduce")
    widget = page.locator(".lora-view")
    widget.get_by_role("slider", name="rank kept").focus()
    page.keyboard.press("ArrowLeft")
    expect(widget.locator(".said")).to_contain_text("Rank 7 keeps", timeout=PATIENCE)
    screenshot(widget, "lora_view_notebook_7")
    shut_down_kernel(page)
    widget.get_by_role("slider", name="layer").fill("0")
    expect(widget.get_by_role("alert")).to_contain_text("The kernel is not running")
