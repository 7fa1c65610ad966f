// The browser's half of PreferenceLabeller: the pair to be judged, and buttons and keys that say which answer is better.

import { keepKeys, node, onNewLooks, soon } from "../shared/base.js";
import { openLine } from "../shared/kernel.js";
import { counted } from "../shared/numbers.js";

const KEYS = { Digit1: "1", Digit2: "2" }; // by place: on a French keyboard a digit takes Shift
const SAID = { 0: "chose 1", 1: "chose 2", null: "skipped it" };

export default { render };

function render({ model, el }) {
  const root = node("div", {
    className: "course-widget preference-labeller",
    role: "group",
    ariaLabel: "Which answer is better? The keys 1 and 2 choose, s skips, u takes back.",
    tabIndex: 0,
  });
  keepKeys(root);
  const draw = soon(drawNow);
  const line = openLine(model, el, draw);
  const result = () => model.get("result");

  // What was said of the pair that is shown is not said twice; of the next one it may be, before the kernel reports "done".
  function ask(type, choice = null) {
    const { pair, done } = result();
    const isSaid = ["choose", "undo"].some((act) => line.pending(act)?.number === done);
    if (isSaid || (type === "undo" ? done === 0 : pair === null)) return;
    line.ask({ type, choice, number: done });
  }

  root.addEventListener("keydown", (event) => {
    if (event.repeat || event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = actions[KEYS[event.code] ?? event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });

  const actions = {
    1: () => ask("choose", 0),
    2: () => ask("choose", 1),
    s: () => ask("choose"),
    u: () => ask("undo"),
  };
  const button = (key, text) =>
    node("button", { type: "button", onclick: actions[key] }, node("kbd", { textContent: key }), text);

  const title = node("h3");
  const count = node("p", { className: "muted", role: "status" });
  const bar = node("progress", { ariaLabel: "Judged so far" });
  const prompt = textPanel("Prompt");
  const answers = [1, 2].map((number) => {
    const choose = button(String(number), `Answer ${number} is better`);
    return textPanel(`Answer ${number}`, choose);
  });
  const skip = button("s", "Skip");
  const undo = button("u", "Take back");
  const said = node("span", { className: "muted said" });
  const hint = node("span", { className: "muted hint", textContent: "Click here, and the keys work." });
  const error = node("p", { className: "error", role: "alert" });
  const outcome = node("div", { className: "outcome" });
  const sides = node("div", { className: "sides" }, ...answers.map(({ element }) => element));
  root.append(
    node("div", { className: "head" }, title, count),
    bar,
    prompt.element,
    sides,
    outcome,
    node("div", { className: "buttons" }, skip, undo, hint, said),
    error,
  );
  el.append(root);

  function drawNow() {
    const { pair, done, total, last } = result();
    const isFocused = root.contains(document.activeElement);
    title.textContent = pair ? "Which answer is better?" : "All pairs judged";
    count.textContent = pair ? `Comparison ${done + 1} of ${total}` : counted(total, "comparison");
    bar.max = total;
    bar.value = done;
    for (const part of [prompt.element, sides, skip]) part.hidden = pair === null;
    if (pair) {
      prompt.show(pair.prompt, done);
      for (const [i, answer] of answers.entries()) answer.show(pair.answers[i], done);
    }
    undo.disabled = done === 0;
    said.textContent = done ? `Of the pair before you ${SAID[String(last)]}.` : "";
    said.hidden = hint.hidden = pair === null;
    outcome.replaceChildren(...(pair ? [] : summary(result())));
    error.textContent = line.error;
    const isLost = document.activeElement?.matches(":disabled, [hidden], [hidden] *") ?? true;
    if (isFocused && (isLost || !root.contains(document.activeElement))) root.focus(); // so that the keys go on to work
  }

  model.on("change:result", draw);
  const ignoreLooks = onNewLooks(root, draw);
  drawNow();
  return () => {
    model.off("change:result", draw);
    line.close();
    ignoreLooks();
  };
}

// A text with its title, as it is, and what stands below it. Where it is long it scrolls, with the arrow keys too.
function textPanel(name, ...below) {
  const text = node("p", { className: "text" });
  const element = node("section", { ariaLabel: name }, node("h4", { textContent: name }), text, ...below);
  let shown = null; // the number of the pair

  function show(content, number) {
    if (shown !== number) {
      text.textContent = content || "(no text)";
      text.classList.toggle("muted", content === "");
      text.scrollTop = 0;
      shown = number;
    }
    if (text.scrollHeight > text.clientHeight) text.tabIndex = 0;
    else text.removeAttribute("tabindex");
  }
  return { element, show };
}

function summary({ total, skipped, same, repeats, file }) {
  const agreed = repeats
    ? `Of ${counted(repeats, "pair")} that you judged twice, the second time the other way round, you chose the same answer in ${same}: ${Math.round((100 * same) / repeats)} %.`
    : "No pair was judged twice.";
  return [
    node("p", { textContent: agreed }),
    node(
      "p",
      {},
      `${counted(total - skipped, "choice")} and ${counted(skipped, "skip")} are kept in `,
      code(file),
      ".",
    ),
  ];
}

const code = (textContent) => node("code", { textContent });
