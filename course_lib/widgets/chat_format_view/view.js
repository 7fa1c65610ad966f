// The browser's half of ChatFormatView. The kernel's half says what `settings` and `result` hold; here they are drawn.

import { clamp, drawAll, keepKeys, neighbour, node, onNewLooks, soon, tokenChip } from "../shared/base.js";
import { counted, roundValues } from "../shared/numbers.js";
import { choiceRow, errorPanel, openSettings, sliderRow } from "../shared/settings.js";
import { maskPanel } from "./mask.js";

const TEMPLATES = {
  "its own": "The template that came with this tokenizer.",
  ChatML: "A special token begins a turn, another one ends it.",
  "Llama 3 headers": "Special tokens around the role, and one that ends the turn.",
  "plain text": "No special token: the role is a word, a new line ends the turn.",
};
/** @type {[mask: string, name: string, idea: string][]} */
const MASKS = [
  ["answers", "answers only", "Targets are what the assistant says and what ends its turn."],
  ["everything", "everything", "Every token but the first is a target, the user’s words too."],
  ["unended", "answers without their end", "Targets are what the assistant says, not what ends its turn."],
];
const LENGTHS = [32, 48, 64, 96, 128, 160, 192, 224, 256];

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget settings-widget chat-format-view" });
  keepKeys(root);
  const draw = soon(() => drawAll(panels));
  const view = openSettings(model, el, draw);
  const [choices, chats, tokens, rows, mask] = [choicePanel, chatPanel, tokenPanel, rowPanel, maskPanel].map((panel) =>
    panel(view),
  );
  const error = errorPanel(view);
  const panels = [choices, error, chats, tokens, rows, mask];
  root.append(
    choices.element,
    error.element,
    node("div", { className: "chat" }, chats.element, tokens.element),
    node("div", { className: "batch" }, rows.element, mask.element),
  );
  el.append(root);

  const ignoreLooks = onNewLooks(root, draw);
  draw();
  return () => {
    view.close();
    ignoreLooks();
  };
}

// ---- The template, and what the loss is on ----

function choicePanel(view) {
  const template = choiceRow({
    label: "Template",
    choices: view.result().templates.map((name) => [name, name]),
    chosen: () => view.settings().template,
    choose: (name) => view.set({ template: name }),
  });
  const mask = choiceRow({
    label: "Loss on",
    choices: MASKS.map(([name, text]) => [name, text]),
    chosen: () => view.settings().mask,
    choose: (name) => view.set({ mask: name }),
  });
  const [templateIdea, maskIdea] = [node("p", { className: "muted" }), node("p", { className: "muted" })];
  const group = (label, row, idea) => node("div", {}, node("h3", { textContent: label }), row.element, idea);
  const element = node(
    "section",
    { className: "choices" },
    group("Template", template, templateIdea),
    group("Loss on", mask, maskIdea),
  );
  const draw = () => {
    template.draw();
    mask.draw();
    templateIdea.textContent = TEMPLATES[view.settings().template];
    maskIdea.textContent = MASKS.find(([name]) => name === view.settings().mask)[2];
  };
  return { element, draw };
}

// ---- The messages of the chosen chat ----

function chatPanel(view) {
  const tabs = node("div", { className: "modes", role: "group", ariaLabel: "Chat" });
  const fields = node("div", { className: "messages" });
  const element = node("section", {}, node("header", {}, node("h3", { textContent: "Chat" }), tabs), fields);
  let roles = null; // of the messages that the fields were built for, and which chat's they are

  const messages = () => view.settings().chats[view.settings().chat];
  function edit(turn, content) {
    const { chats, chat } = view.settings();
    const edited = chats[chat].map((message, i) => (i === turn ? { ...message, content } : message));
    view.set({ chats: chats.map((other, i) => (i === chat ? edited : other)) });
  }

  function draw() {
    const { chats, chat } = view.settings();
    if (tabs.childElementCount !== chats.length)
      tabs.replaceChildren(
        ...chats.map((_, i) =>
          node("button", { type: "button", textContent: String(i + 1), onclick: () => view.set({ chat: i }) }),
        ),
      );
    for (const [i, tab] of [...tabs.querySelectorAll("button")].entries()) {
      tab.ariaPressed = String(i === chat);
      tab.ariaLabel = `Chat ${i + 1}`;
    }
    const wanted = JSON.stringify([chat, messages().map(({ role }) => role)]);
    if (roles !== wanted) {
      roles = wanted;
      fields.replaceChildren(
        ...messages().map(({ role }, turn) => {
          const field = node("textarea", { rows: 1, spellcheck: false, ariaLabel: `Message ${turn + 1}: ${role}` });
          field.addEventListener("input", () => edit(turn, field.value));
          return node("label", {}, node("span", { textContent: role }), field);
        }),
      );
    }
    for (const [turn, field] of [...fields.querySelectorAll("textarea")].entries()) {
      const { content } = messages()[turn];
      if (field.value !== content) field.value = content;
    }
  }
  return { element, draw };
}

// ---- What the model sees of it ----

function tokenPanel(view) {
  const sizes = node("p", { className: "sizes", role: "status" });
  const legend = node(
    "p",
    { className: "legend" },
    ...[
      ["given", "given"],
      ["target", "target"],
      ["special", "special token"],
      ["frame", "of the template"],
    ].map(([kind, textContent]) => node("span", { className: `sample ${kind}`, textContent })),
  );
  const list = node("div", { className: "tokens", role: "listbox", ariaLabel: "Tokens of this chat" });
  const readout = node("p", { className: "readout", ariaLive: "polite" });
  const notes = node("div", { className: "notes" });
  const head = node("header", {}, node("h3", { textContent: "What the model sees" }), legend);
  const element = node("section", {}, head, sizes, list, readout, notes);
  let drawn = null; // the tokens that the chips were built for
  let chips = [];
  let active = 0; // the token that the keyboard is at
  let pointed = null; // the token that the pointer is at

  function build(tokens) {
    chips = tokens.map((token, position) => {
      const chip = tokenChip(token);
      chip.title = `${JSON.stringify(token.piece)}, id ${token.id}, position ${position}`;
      chip.role = "option";
      chip.ariaLabel = spokenToken(tokens, position);
      for (const kind of ["special", "target"]) chip.classList.toggle(kind, token[kind]);
      chip.classList.toggle("frame", token.who === "template");
      chip.addEventListener("pointerenter", () => point(position));
      chip.addEventListener("focus", () => {
        active = position;
        point(null);
      });
      return chip;
    });
    const ends = tokens.flatMap(({ piece }, position) =>
      piece.endsWith("\n") ? [chips[position], node("span", { className: "break" })] : [chips[position]],
    );
    list.replaceChildren(...ends);
    [active, pointed] = [clamp(active, 0, Math.max(0, chips.length - 1)), null];
    drawn = tokens;
  }

  function point(position) {
    pointed = position;
    draw();
  }

  list.addEventListener("pointerleave", () => point(null));
  list.addEventListener("focusout", () => point(null));
  list.addEventListener("keydown", (event) => {
    const wanted = neighbour(event.key, active, chips.length);
    if (wanted === null) return;
    event.preventDefault();
    chips[wanted].focus();
  });

  function draw() {
    const { tokens } = view.result();
    if (drawn !== tokens) {
      const hadFocus = list.contains(document.activeElement);
      build(tokens);
      if (hadFocus) chips[active]?.focus();
    }
    const isFocused = list.contains(document.activeElement);
    const at = pointed ?? (isFocused ? active : null);
    chips.forEach((chip, position) => {
      chip.tabIndex = position === active ? 0 : -1;
      chip.ariaSelected = String(position === at);
      chip.classList.toggle("next", at !== null && position === at + 1);
    });
    list.hidden = readout.hidden = chips.length === 0;
    sizes.hidden = chips.length === 0 || Boolean(view.result().problems[view.settings().chat]);
    readout.replaceChildren(
      ...(at === null ? ["Point at a token for its id, its position and its target."] : readoutAt(tokens, at)),
    );
    readout.classList.toggle("muted", at === null);
    const n_targets = tokens.filter(({ target }) => target).length;
    sizes.replaceChildren(
      node("b", { textContent: String(n_targets) }),
      ` of ${counted(tokens.length, "token")} of this chat ${n_targets === 1 ? "is a target" : "are targets"}; in all rows `,
      node("b", { textContent: view.result().n_targets.toLocaleString("en") }),
      ` of ${view.result().n_tokens.toLocaleString("en")}.`,
    );
    notes.replaceChildren(...notesOn(view).map((parts) => node("p", {}, ...parts)));
  }
  return { element, draw };
}

const written = ({ who }) => (who === "template" ? "written by the template" : `what the ${who} says`);

function spokenToken(tokens, position) {
  const { piece, id, target } = tokens[position];
  const role = target ? "target" : "given";
  return `${JSON.stringify(piece)}, id ${id}, position ${position}, ${written(tokens[position])}, ${role}`;
}

function readoutAt(tokens, position) {
  const [token, next] = [tokens[position], tokens[position + 1]];
  const target = next
    ? [
        "target here ",
        tokenChip(next),
        node("b", {
          className: next.target ? "counts" : "",
          textContent: next.target ? " ✓ counts" : " – does not count",
        }),
      ]
    : ["no target here: nothing follows"];
  const parts = [
    [tokenChip(token)],
    [`id ${token.id.toLocaleString("en")}`],
    [`position ${position}`],
    [written(token)],
    target,
  ];
  return parts.map((part) => node("span", {}, ...part));
}

// What a learner should not overlook: a chat left out, markers that are no tokens, an end that is not taught.
function notesOn(view) {
  const { problems, tokens, stray, ends } = view.result();
  const code = (textContent) => node("code", { textContent });
  const notes = [];
  const problem = problems[view.settings().chat];
  if (problem) notes.push([node("b", { textContent: "This chat cannot be trained on: " }), `${problem}.`]);
  if (Object.keys(stray).length)
    notes.push([
      node("b", { textContent: "The wrong template: " }),
      ...Object.entries(stray).flatMap(([marker, n], i) => [i ? ", " : "", code(marker), ` falls into ${n} tokens`]),
      ". They are no special tokens of this tokenizer.",
    ]);
  if (tokens.some(({ target }) => target) && !tokens.some((token) => token.target && token.ends))
    notes.push([
      node("b", { textContent: "No end: " }),
      ...(ends.length
        ? ["no target is ", ...ends.flatMap((end, i) => [i ? " or " : "", code(end)]), ", which ends a turn"]
        : ["this tokenizer has no token that ends a turn"]),
      ". Nothing here teaches a model to stop.",
    ]);
  return notes;
}

// ---- The rows of a batch ----

function rowPanel(view) {
  const packing = choiceRow({
    label: "Rows",
    choices: [
      [false, "one chat a row"],
      [true, "packed"],
    ],
    chosen: () => view.settings().packed,
    choose: (packed) => view.set({ packed }),
  });
  const slider = sliderRow(view, {
    name: "row_length",
    label: "row length",
    values: LENGTHS,
    say: (length) => `${length} tokens`,
  });
  const strips = node("div", { className: "strips" });
  const axis = node("div", { className: "axis muted" });
  const said = node("p", { className: "padding", role: "status" });
  const legend = node(
    "p",
    { className: "legend" },
    ...[
      ["document", "a chat"],
      ["target", "its targets"],
      ["pad", "padding"],
    ].map(([kind, textContent]) => node("span", { className: `sample ${kind}`, textContent })),
  );
  const notes = node("div", { className: "notes" });
  const head = node("header", {}, node("h3", { textContent: "Rows" }), packing.element, slider.element);
  const element = node("section", { className: "rows" }, head, strips, axis, legend, said, notes);
  let drawn = null; // the rows that the strips were built for

  function draw() {
    const result = view.result();
    const { packed, chat } = view.settings();
    packing.draw();
    slider.draw();
    slider.element.hidden = !packed;
    if (drawn !== result.rows) {
      const focused = strips.querySelector(":focus")?.ariaLabel.split(":")[0];
      strips.replaceChildren(...result.rows.map((segments, row) => strip(view, segments, row)));
      axis.replaceChildren(...axisOf(result.row_length));
      buttons()
        .find((button) => button.ariaLabel.split(":")[0] === focused)
        ?.focus();
      drawn = result.rows;
    }
    for (const button of buttons()) button.ariaPressed = String(button.dataset.chat === String(chat));
    const n_rows = result.rows.length;
    const share = `${Math.round(100 * result.padding)} %`;
    said.replaceChildren(
      packed ? "Best-fit: " : "As long as the longest: ",
      `${counted(n_rows, "row")} of ${counted(result.row_length, "token")}: `,
      node("b", { textContent: share }),
      ` of ${(n_rows * result.row_length).toLocaleString("en")} places are padding.`,
    );
    strips.hidden = axis.hidden = legend.hidden = said.hidden = n_rows === 0;
    const out = result.problems.flatMap((problem, i) =>
      problem ? [node("p", {}, `Chat ${i + 1} is left out: ${problem}.`)] : [],
    );
    notes.replaceChildren(...out);
  }

  const buttons = () => [...strips.querySelectorAll("button")];
  return { element, draw };
}

function strip(view, segments, row) {
  const { row_length } = view.result();
  const place = (element, start, end, length) => {
    element.style.left = `${(100 * start) / length}%`;
    element.style.width = `${(100 * (end - start)) / length}%`;
    return element;
  };
  const parts = segments.map(({ chat, start, end, targets }) => {
    const n_targets = targets.reduce((sum, [first, last]) => sum + last - first, 0);
    const button = node(
      "button",
      {
        type: "button",
        onclick: () => view.set({ chat }),
        ariaLabel: `Chat ${chat + 1}: ${counted(end - start, "token")}, ${counted(n_targets, "target")}, row ${row + 1}`,
      },
      ...targets.map(([first, last]) => place(node("i"), first - start, last - start, end - start)),
      node("span", { textContent: String(chat + 1) }),
    );
    button.title = button.ariaLabel;
    button.dataset.chat = String(chat);
    return place(button, start, end, row_length);
  });
  return node("div", { className: "strip" }, ...parts);
}

function axisOf(length) {
  const values = roundValues(0, length, 6).filter((value) => value < 0.9 * length);
  return [...values, length].map((value) => {
    const tick = node("span", { textContent: String(value) });
    tick.style.left = `${(100 * value) / length}%`;
    return tick;
  });
}
