// The browser's half of TokenizerView. The kernel's half says what `result` and `replay` hold; here they are drawn and driven.

import { clamp, drawAll, keepKeys, neighbour, node, prefersStillness, soon, tokenChip } from "../shared/base.js";
import { openLine } from "../shared/kernel.js";
import { ladder, pairText, rankText } from "./ladder.js";

const PACE = 900; // ms a merge while it plays
const MOST_PAIRS = 8; // known pairs of neighbours that are listed at a step

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget tokenizer-view" });
  keepKeys(root);
  const view = openView(model, el);
  const panels = [textPanel, tokenPanel, replayPanel].map((panel) => panel(view));
  root.append(...panels.map((panel) => panel.element));
  el.append(root);

  view.draw = soon(() => drawAll(panels));
  const changes = "change:text change:result change:word change:replay change:step";
  model.on(changes, view.draw);
  view.draw();
  return () => {
    view.close();
    model.off(changes, view.draw);
  };
}

// ---- What the panels share: the word, the step, the clock, and the line to the kernel ----

function openView(model, el) {
  let clock = null;

  const view = {
    line: openLine(model, el, () => view.draw()),
    text: () => model.get("text"),
    result: () => model.get("result"),
    word: () => model.get("word"),
    replay: () => model.get("replay"),
    step: () => clamp(model.get("step"), 0, view.last()),
    last: () => Math.max(0, view.replay().steps.length - 1),
    isPlaying: () => clock !== null,
    draw: () => {},

    choose(word) {
      view.pause();
      view.line.ask({ type: "word", word });
    },

    go(step) {
      model.set("step", clamp(step, 0, view.last()));
      model.save_changes();
    },

    play() {
      if (view.step() === view.last()) view.go(0);
      if (prefersStillness()) return view.go(view.last());
      clock = setInterval(() => {
        view.go(view.step() + 1);
        if (view.step() === view.last()) view.pause();
      }, PACE);
      view.draw();
    },

    pause() {
      clearInterval(clock);
      clock = null;
      view.draw();
    },

    close() {
      clearInterval(clock);
      model.off("change:replay", view.pause);
      view.line.close();
    },
  };
  model.on("change:replay", view.pause);
  return view;
}

// ---- The text, cut as it is typed ----

function textPanel(view) {
  const input = node("textarea", { rows: 2, ariaLabel: "Text to cut into tokens", spellcheck: false });
  const error = node("p", { className: "error", role: "alert" });
  const sizes = node("p", { className: "sizes", role: "status" });
  const element = node("section", { className: "text" }, input, error, sizes);
  let known = null; // the kernel's text that the box was last given or that it agreed with

  input.addEventListener("input", () => view.line.ask({ type: "text", text: input.value }));

  function draw() {
    if (view.text() !== known && !view.line.pending("text")) {
      known = view.text();
      if (input.value !== known) input.value = known;
    }
    error.textContent = view.line.error;
    error.hidden = view.line.error === "";
    sizes.replaceChildren(...sizesOf(view.result()));
  }
  return { element, draw };
}

function sizesOf({ sizes, tokens, start }) {
  const number = (text) => node("b", { textContent: text });
  const parts = Object.entries(sizes).map(([unit, n]) =>
    node("span", {}, number(n.toLocaleString("en")), ` ${unit}${n === 1 ? "" : "s"}`),
  );
  parts.push(node("span", {}, number((sizes.byte / tokens.length).toPrecision(2)), " bytes per token"));
  if (start.length)
    parts.push(node("span", { className: "muted" }, "before the text a model is given ", ...start.map(tokenChip)));
  return parts;
}

// ---- The tokens ----

function tokenPanel(view) {
  const list = node("div", {
    className: "tokens",
    role: "listbox",
    ariaLabel: "Tokens; Enter chooses a word to merge",
  });
  const readout = node("p", { className: "readout", ariaLive: "polite" });
  const element = node("section", {}, node("h3", { textContent: "Tokens" }), list, readout);
  let drawn = null; // the result that the chips were built for
  let chips = [];
  let words = []; // of each token, the word it is in
  let active = 0; // the token that the keyboard is at
  let pointed = null; // the token that the pointer is at

  function build({ tokens, words: counts }) {
    words = counts.flatMap((count, word) => Array(count).fill(word));
    chips = tokens.map((token, position) => {
      const chip = tokenChip(token);
      chip.title = `${JSON.stringify(token.piece)}, id ${token.id}, position ${position}`;
      chip.role = "option";
      chip.ariaLabel = spoken(token, position);
      chip.classList.toggle("special", token.special);
      chip.addEventListener("pointerenter", () => point(position));
      chip.addEventListener("focus", () => {
        active = position;
        point(null);
      });
      chip.addEventListener("click", () => view.choose(words[position]));
      return chip;
    });
    const groups = counts.map(() => node("span", { className: "word" }));
    for (const [position, chip] of chips.entries()) groups[words[position]].append(chip);
    const ends = groups.flatMap((group, word) => {
      const last = tokens[words.lastIndexOf(word)];
      return last.piece.endsWith("\n") ? [group, node("span", { className: "break" })] : [group];
    });
    list.replaceChildren(...ends);
    [active, pointed] = [clamp(active, 0, chips.length - 1), null];
    drawn = view.result();
  }

  function point(position) {
    pointed = position;
    draw();
  }

  list.addEventListener("pointerleave", () => point(null));
  list.addEventListener("keydown", (event) => {
    const target = neighbour(event.key, active, chips.length);
    if (target === null && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (target === null) return view.choose(words[active]);
    chips[target].focus();
  });

  function draw() {
    if (drawn !== view.result()) {
      const hadFocus = list.contains(document.activeElement);
      build(view.result());
      if (hadFocus) chips[active].focus();
    }
    chips.forEach((chip, position) => {
      chip.tabIndex = position === active ? 0 : -1;
      chip.ariaSelected = String(words[position] === view.word());
    });
    for (const [word, group] of list.querySelectorAll(".word").entries())
      group.classList.toggle("chosen", word === view.word());
    const isFocused = list.contains(document.activeElement);
    const at = pointed ?? (isFocused ? active : null);
    readout.replaceChildren(
      ...(at === null
        ? ["Point at a token for its id; click one to see how its word was merged."]
        : readoutOf(view.result().tokens[at], at)),
    );
    readout.classList.toggle("muted", at === null);
  }
  return { element, draw };
}

function spoken(token, position) {
  return `${JSON.stringify(token.piece)}, id ${token.id}, position ${position}${token.special ? ", special" : ""}`;
}

function readoutOf(token, position) {
  const parts = [tokenChip(token), `id ${token.id.toLocaleString("en")}`, `position ${position}`];
  return [
    ...parts.flatMap((part) => [part, node("span", { className: "gap" })]),
    token.special ? "special: cut out first, never merged" : "",
  ];
}

// ---- The merges of the chosen word ----

function replayPanel(view) {
  const button = (textContent, onclick, className = "") =>
    node("button", { type: "button", textContent, onclick, className });
  const name = node("span", { className: "chip" });
  const title = node("h3", {}, "Merging ", name);
  const back = button("◀ Back", () => view.go(view.step() - 1));
  const play = button("Play", () => (view.isPlaying() ? view.pause() : view.play()), "play");
  const next = button("Step ▶", () => view.go(view.step() + 1), "primary");
  const slider = node("input", { type: "range", min: 0, ariaLabel: "Merges done" });
  slider.addEventListener("input", () => view.go(slider.valueAsNumber));
  const place = node("span", { className: "muted place" });
  const controls = node("div", { className: "steps" }, back, play, next, slider, place);
  const rungs = ladder();
  const said = node("p", { className: "said", ariaLive: "polite" });
  const pairs = node("ol", { className: "pairs" });
  const note = node("p", { className: "muted note" });
  const side = node("div", { className: "side" }, said, note, pairs);
  const bench = node("div", { className: "bench" }, rungs.element, side);
  const none = node("p", { className: "none" });
  const element = node("section", { className: "replay" }, title, none, controls, bench);
  let drawn = null; // the replay that the ladder was built for

  element.addEventListener("keydown", (event) => {
    if (event.target === slider && event.key !== " ") return; // it moves by itself
    const act = {
      ArrowLeft: () => view.go(view.step() - 1),
      ArrowRight: () => view.go(view.step() + 1),
      Home: () => view.go(0),
      End: () => view.go(Infinity),
      " ": !(event.target instanceof HTMLButtonElement) && (() => (view.isPlaying() ? view.pause() : view.play())),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  function draw() {
    const replay = view.replay();
    const [step, last] = [view.step(), view.last()];
    if (drawn !== replay) {
      rungs.build(replay);
      const most = Math.max(0, ...replay.steps.map((_, at) => knownPairs(replay, at).length));
      pairs.style.minHeight = `${30 * Math.min(most, MOST_PAIRS + 1)}px`; // so that nothing below moves
      drawn = replay;
    }
    name.textContent = visible(replay.word);
    const isShown = replay.steps.length > 0;
    for (const part of [controls, bench]) part.hidden = !isShown;
    none.hidden = isShown;
    none.textContent = replay.special
      ? "This is a special token. It is cut out of the text before anything else, and never merged."
      : "This word is too long for its merges to be shown here.";
    if (!isShown) return;
    rungs.show(step, replay);
    back.disabled = step === 0;
    next.disabled = step === last;
    play.disabled = last === 0;
    play.textContent = view.isPlaying() ? "Pause" : "Play";
    Object.assign(slider, { max: last, value: step, disabled: last === 0 });
    place.textContent = `merge ${step} of ${last}`;
    slider.ariaValueText = place.textContent;
    said.replaceChildren(...saidOf(replay, step));
    const known = knownPairs(replay, step);
    pairs.replaceChildren(...known.slice(0, MOST_PAIRS).map((pair, index) => pairItem(replay, pair, index === 0)));
    if (known.length > MOST_PAIRS)
      pairs.append(node("li", { className: "muted", textContent: `and ${known.length - MOST_PAIRS} more` }));
    note.textContent = noteOf(replay, step, known);
  }
  return { element, draw };
}

// The text with its white space visible, as the chips of its tokens show it.
const visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥");

function saidOf(replay, step) {
  if (step === 0) return [`Merging begins with the word’s ${replay.symbols}.`];
  const { rank, ids, position } = replay.steps[step];
  const result = tokenChip(replay.vocabulary[ids[position]]);
  if (rank === null) return ["The whole word ", result, " is in the vocabulary: this tokenizer takes it as it is."];
  return [
    ...pairText(replay, step),
    " becomes ",
    result,
    `: rank ${rank.toLocaleString("en")} of the ${replay.merges.toLocaleString("en")} pairs that training learned, counted from 0.`,
  ];
}

// The pairs of neighbours that training knows, the one learned first in front.
function knownPairs(replay, step) {
  const { ids, ranks } = replay.steps[step];
  const pairs = ranks.flatMap((rank, place) =>
    rank === null ? [] : [{ rank, left: ids[place], right: ids[place + 1] }],
  );
  return pairs.sort((a, b) => a.rank - b.rank); // stable: of equal ones the leftmost
}

function pairItem(replay, { rank, left, right }, isNext) {
  const chips = [tokenChip(replay.vocabulary[left]), " + ", tokenChip(replay.vocabulary[right])];
  const mark = node("span", { className: "mark", textContent: isNext ? "merges next" : "" });
  return node(
    "li",
    { className: isNext ? "next" : "" },
    node("span", { className: "rank", textContent: rankText({ rank }) }),
    node("span", {}, ...chips),
    mark,
  );
}

function noteOf(replay, step, known) {
  if (known.length) return "Neighbours that training knows as a pair; the one it learned first merges next:";
  if (step < replay.steps.length - 1) return "No pair of neighbours is known.";
  const count = replay.steps[step].ids.length;
  return count === 1
    ? "The word is one token."
    : `No pair of neighbours is known: these ${count} are the word’s tokens.`;
}
