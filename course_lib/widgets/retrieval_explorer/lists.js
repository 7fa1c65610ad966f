// The three rankings side by side: fused in the middle, and lines from each chunk's rank in one to that in the next.

import { drawing, neighbour, node } from "../shared/base.js";
import { short } from "../shared/numbers.js";
import { sliderRow } from "../shared/settings.js";
import { glyph } from "./map.js";

const ROW = 52; // CSS pixels, as in style.css
const GAP = 44; // between two lists
const CONSTANTS = [0, 1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 60, 100];
const WEIGHTS = Array.from({ length: 13 }, (_, i) => i / 4);
const FUSED = 2; // its place in the kernel's `lists`

/**
 * How the rankings are fused, and the rankings.
 * @param {import("./view.js").Explorer} view
 */
export function listsPanel(view) {
  const sliders = [
    { name: "k", label: "k", values: CONSTANTS, say: (k) => short(k) },
    { name: "words", label: "weight of words", values: WEIGHTS, say: (weight) => short(weight) },
    { name: "meaning", label: "weight of meaning", values: WEIGHTS, say: (weight) => short(weight) },
  ].map((setting) => sliderRow(view, setting));
  const formula = node("p", { className: "formula" });
  const words = listOf(view, 0, "By words", "words", "BM25", "No chunk has a word of the query.");
  const fused = listOf(view, FUSED, "Fused", "both", "score", "Nothing is found.");
  const meaning = listOf(view, 1, "By meaning", "meaning", "cosine", "Nothing is found.");
  const gaps = [0, 1].map((other) => linesBetween(view, other));
  const columns = node(
    "div",
    { className: "columns" },
    words.element,
    gaps[0].element,
    fused.element,
    gaps[1].element,
    meaning.element,
  );
  const controls = node("div", { className: "controls" }, ...sliders.map(({ element }) => element));
  const title = node("h3", { textContent: "What is found" });
  const element = node("section", { className: "lists" }, title, controls, formula, columns);

  const draw = () => {
    for (const part of [...sliders, words, fused, meaning, ...gaps]) part.draw();
    const { k, words: w, meaning: m } = view.settings();
    formula.replaceChildren(
      "score = ",
      node("span", { className: "key", textContent: `${short(w)} / (${short(k)} + rank by words)` }),
      " + ",
      node("span", { className: "by-meaning", textContent: `${short(m)} / (${short(k)} + rank by meaning)` }),
    );
  };
  return { element, draw };
}

function listOf(view, which, title, kind, unit, none) {
  const rows = node("ol", { ariaLabel: title });
  const empty = node("p", { className: "muted", textContent: none });
  const heading = node("h4", {}, glyph(kind), title, node("span", { className: "muted", textContent: unit }));
  const element = node("div", { className: "ranking" }, heading, rows, empty);
  let shown = null;
  rows.addEventListener("keydown", (event) => {
    const buttons = [...rows.querySelectorAll("button")];
    const to = neighbour(event.key, buttons.indexOf(/** @type {any} */ (event.target)), buttons.length);
    if (to === null) return;
    event.preventDefault();
    buttons[to].focus();
  });
  const lookAt = ({ target }) => view.look(target === rows ? null : Number(target.closest("li").dataset.item));
  for (const event of ["pointerover", "focusin"]) rows.addEventListener(event, lookAt);
  for (const event of ["pointerleave", "focusout"]) rows.addEventListener(event, () => view.look(null));

  const draw = () => {
    const result = view.result();
    if (shown !== result) {
      const focused = [...rows.querySelectorAll("button")].indexOf(/** @type {any} */ (document.activeElement));
      rows.replaceChildren(...result.lists[which].map(([item, score], i) => rowOf(view, which, item, score, i)));
      rows.querySelectorAll("button")[focused]?.focus(); // which the one before it has lost
      shown = result;
    }
    empty.hidden = rows.children.length > 0 || view.settings().query === null;
    for (const row of rows.children) {
      if (!(row instanceof HTMLElement)) continue;
      const item = Number(row.dataset.item);
      row.classList.toggle("looked", item === view.looked);
      row.querySelector("button").ariaPressed = String(item === view.opened());
    }
  };
  return { element, draw };
}

function rowOf(view, which, item, score, i) {
  const { found, passages, with: answer, quote } = view.result();
  const { begins, parts } = found[item];
  const marks = [];
  if (view.isRight(item)) marks.push(node("span", { className: "tag", textContent: "★", title: "the right passage" }));
  const source = (answer && !answer.refused ? answer : quote)?.source;
  if (source === item) marks.push(node("span", { className: "tag source", textContent: "source" }));
  const below =
    which === FUSED ? contributions(parts) : node("span", { className: "begins muted", textContent: begins });
  const work = node("span", { textContent: `${view.workOf(item)}, ` });
  const button = node(
    "button",
    { type: "button", title: `${view.place(item)}: ${begins}`, onclick: () => view.open(item) },
    node("span", { className: "rank", textContent: i + 1 }),
    node("span", { className: "place" }, work, node("span", { textContent: view.linesOf(item) }), ...marks),
    node("b", { textContent: short(score) }),
    below,
  );
  const row = node("li", {}, button);
  row.dataset.item = item;
  if (which === FUSED && passages.includes(item)) row.classList.add("given");
  return row;
}

// "0.25 + 0.14": what each rank adds.
function contributions([words, meaning]) {
  const part = (className, value) =>
    node("span", { className, textContent: value === null ? "not found" : short(value) });
  return node("span", { className: "begins" }, part("key", words), " + ", part("by-meaning", meaning));
}

// ---- The lines between two lists ----

function linesBetween(view, other) {
  const element = drawing("svg", { class: "links", width: GAP, "aria-hidden": "true" });
  const draw = () => {
    const { lists, found } = view.result();
    const rows = Math.max(...lists.map((list) => list.length));
    element.setAttribute("height", String((rows + 0.5) * ROW));
    element.replaceChildren(
      ...Object.entries(found).flatMap(([item, { ranks }]) => {
        const [from, to] = other === 0 ? [ranks[0], ranks[FUSED]] : [ranks[FUSED], ranks[1]];
        const isShown = [from, to].map((rank) => rank !== null && rank <= rows);
        if (from === null || to === null || !isShown.includes(true)) return [];
        const [y1, y2] = [from, to].map((rank) => (rank <= rows ? rank - 0.5 : rows + 0.4) * ROW);
        const isLooked = Number(item) === view.looked || Number(item) === view.opened();
        const className = `${other === 0 ? "by-words" : "by-meaning"}${isLooked ? " looked" : ""}`;
        const path = `M 2 ${y1} C ${GAP / 2} ${y1} ${GAP / 2} ${y2} ${GAP - 2} ${y2}`;
        return [
          drawing("path", { d: path, class: className, "stroke-dasharray": isShown.includes(false) ? "3 4" : "none" }),
        ];
      }),
    );
  };
  return { element, draw };
}
