"""Every widget in JupyterLab's light and dark theme, looked over by axe-core: names, roles, contrasts, structure."""

from pathlib import Path

import pytest
from browser import screenshot, use_theme
from playwright.sync_api import Page, expect

from course_lib import widgets

ROOT = Path(__file__).parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
SETUP = f"""
import sys, torch
sys.path.insert(0, {str(ROOT / "tests")!r})
from IPython.display import display
from pathlib import Path
from small_corpus import write_small_corpus
from small_search import TEXTS, small_search, small_writer
from course_lib.alignment import GRPOTrainer, PolicyConfig, Prompts
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.finetuning import LoraConfig, add_chat_format, add_lora
from course_lib.pretraining import PretrainingConfig, Trainer, list_checkpoints
from course_lib.tokenization import train_bpe
from course_lib.widgets import *
"""
SHOW = """
shards = write_small_corpus(folder / "train"), write_small_corpus(folder / "held out", n_texts=4, seed=1)
torch.manual_seed(0)
model = TransformerLM(TransformerConfig(266, 16, 2, 4, 32, 64))
config = PretrainingConfig(n_steps=12, batch_size=8, evaluate_every=6, checkpoint_every=6)
tokenizer = train_bpe(["Tom sees the cat."], 260)
TrainingDashboard(Trainer(model, *shards, config, folder / "run"), tokenizer, "Tom").run()

prompts, reward = Prompts([tokenizer.encode("Tom")], 8, 266), lambda prompts, answers: torch.rand(len(answers))
recipe = PretrainingConfig(n_steps=4, batch_size=2, context_length=8)
policy = GRPOTrainer(model, prompts, reward, PolicyConfig(), recipe, stop_ids=frozenset({0}), true_reward=reward)
RLHFDashboard(policy, tokenizer, ["Tom"]).run()

explorer = AttentionExplorer(model, tokenizer, "Tom sees the cat.", layer=1)
explorer.switch(0, 0, on=False)
cache = CacheView(model, tokenizer, "Tom sees")
cache.step()
sampling = SamplingPlayground(model, tokenizer, "Tom", seed=1)
sampling.generate(3)
lens = LogitLens(model, tokenizer, "Tom sees the cat.")
lens.pinned = 2
stepper = AttentionStepper(*torch.randn(3, 3, 2), causal=True, tokens=["The", " cat", " sat"])
stepper.step = 16  # softmax, with its table
tuned = TransformerLM(model.config)
add_lora(tuned, LoraConfig(2))
lora = LoraView(tuned, tokenizer, "Tom")
lora.set(rank=1)
judged = PreferenceLabeller([("Say it!", "Yes.", "No.")], folder / "judged.jsonl", repeats=1)
judged.choose(0)
judged.choose(None)
constraint = ConstraintView(model, train_bpe(["Tom sees the cat."], 266), "Tom", "[a-d]{2}|(é|[0-9])*x", max_new_tokens=8)
constraint.step()
constraint.step()
found = RetrievalExplorer(small_search(), *small_writer(), 0.2, texts=TEXTS, questions=["Who?"], query="Who led the ship?")
guess = Predict("How many weights are above 0.5?", choices=["none", "`one`"])
guess.prediction = "none"
chat = ChatApp(*add_chat_format(model, tokenizer), max_new_tokens=4)
for text in ("Tom?", "Ann?", "Tom!"):
    chat.say(text)
chat._do({"type": "answer", "id": 5})
chat.stop()
display(
    explorer,
    chat,
    cache,
    sampling,
    lens,
    CheckpointScrubber(list_checkpoints(folder / "run"), tokenizer, "Tom sees the cat.", "Tom"),
    stepper,
    TokenizerView(tokenizer, "Tom sees the cat."),
    ChatFormatView(tokenizer, [[{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Tom."}]] * 2),
    ParallelismTimeline("interleaved"),
    ParallelismTimeline("expert"),
    ScalePlanner("DeepSeek-V3"),
    lora,
    constraint,
    PreferenceLabeller([("Say how!", "Long. " * 999, "Short.")], folder / "open.jsonl"),
    judged,
    found,
    RetrievalExplorer(small_search()),
    Predict("How many heads are there?", number=True, unit="heads"),
    guess.reveal("`one`", because="They add up to 1."),
    check("01.1", 0.625),
    check("02.3", 0.2),
    check("03.1", None),
)
"""


@pytest.fixture(scope="module")
def page(open_notebook, tmp_path_factory) -> Page:
    """A notebook that shows every widget, with axe-core beside them."""
    if not AXE.exists():
        raise FileNotFoundError(f"there is no {AXE}, which package-lock.json pins: `make lint` fetches it")
    folder = f"folder = Path({str(tmp_path_factory.mktemp('run'))!r})"
    page = open_notebook([SETUP + folder, SHOW])
    # axe passes over text that an ancestor clips: all that is scrolled out of sight, and in JupyterLab, whose body is 0 high
    # and clips, every text there is.
    page.set_viewport_size({"width": 1400, "height": 30_000})
    page.add_style_tag(content="body { height: 100vh }")
    page.evaluate(AXE.read_text())
    return page


PLANT = """widgets => {
  for (const widget of widgets) {
    const faint = Object.assign(document.createElement("p"), { className: "faint", textContent: "grey on grey" });
    faint.style.cssText = "color: #888; background: #999";
    widget.append(faint, Object.assign(document.createElement("button"), { className: "nameless" }));
  }
}"""


def violations(page: Page) -> list[tuple[str, str, str]]:
    """What axe finds in all widgets: the rule, the HTML that breaks it, and how to mend it."""
    found = page.evaluate("async () => (await axe.run('.course-widget', { resultTypes: ['violations'] })).violations")
    return [(rule["id"], node["html"], node["failureSummary"]) for rule in found for node in rule["nodes"]]


def test_every_widget_is_shown(page):
    shown = page.locator(".course-widget").evaluate_all("all => all.flatMap(widget => [...widget.classList])")
    folders = {path.parent.name.replace("_", "-") for path in Path(widgets.__file__).parent.glob("*/view.js")}
    assert folders <= set(shown)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_axe_finds_nothing(page, theme):
    use_theme(page, f"JupyterLab {theme}")
    for widget in page.locator(".course-widget").all():
        expect(widget).to_be_visible()
    screenshot(page, f"all_widgets_{theme.lower()}")
    found = violations(page)
    assert not found, "\n".join(map(str, found))


def test_axe_sees_text_and_buttons_of_every_widget(page):
    shown = page.locator(".course-widget")
    shown.evaluate_all(PLANT)
    found = [rule for rule, html, _ in violations(page) if 'class="faint"' in html or 'class="nameless"' in html]
    page.locator(".faint, .nameless").evaluate_all("parts => parts.forEach(part => part.remove())")
    assert sorted(found) == ["button-name"] * shown.count() + ["color-contrast"] * shown.count()
