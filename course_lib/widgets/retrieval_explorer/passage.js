// The menu of questions, and the chunk that is open: in its work, with the query's words marked.

import { node } from "../shared/base.js";
import { counted } from "../shared/numbers.js";

/**
 * Questions to choose from, if there are any, and what has become of the right passage.
 * @param {import("./view.js").Explorer} view
 */
export function menuPanel(view) {
  const menu = view.get("menu");
  const first = node("option", { value: "", textContent: "Choose a question …" });
  const kinds = [...new Set(menu.map(({ kind }) => kind))];
  const groups = kinds.map((kind) => {
    const own = menu.filter((question) => question.kind === kind);
    const options = own.map(({ text }) => node("option", { value: text, textContent: text }));
    return node("optgroup", { label: `${counted(own.length, "question")}: ${kind}` }, ...options);
  });
  const select = node("select", { ariaLabel: "Questions" }, first, ...groups);
  select.addEventListener("change", () => select.value && view.ask(select.value));
  const said = node("p", { className: "right-passage", role: "status" });
  const element = node("div", { className: "menu" }, select, said);
  element.hidden = menu.length === 0;

  const draw = () => {
    const { query } = view.settings();
    select.value = menu.some(({ text }) => text === query) ? query : "";
    said.textContent = aboutRight(view.result().right);
  };
  return { element, draw };
}

function aboutRight(right) {
  if (!right) return "";
  if (right.items.length === 0) return "★ No single chunk holds the lines that answer this question.";
  const [words, meaning, fused] = right.ranks.map((rank) => (rank ? `number ${rank}` : "not in the first 100"));
  const isFound = right.ranks[2] !== null && right.ranks[2] <= 5;
  const verdict = isFound ? "in the first five" : "not in the first five";
  return `★ The right passage: by words ${words}, by meaning ${meaning}, fused ${right.ranks[2] ? fused : "not found"}: ${verdict}.`;
}

/**
 * The chunk that is open, and the lines around it.
 * @param {import("./view.js").Explorer} view
 */
export function openPanel(view) {
  const title = node("h3");
  const note = node("p", { className: "muted" });
  const lines = node("div", { className: "lines", tabIndex: 0, role: "region", ariaLabel: "The open chunk" });
  const element = node("section", { className: "open" }, title, note, lines);
  let shown = null;

  const draw = () => {
    const { open, right } = view.result();
    lines.classList.toggle("waiting", view.opened() !== open?.item);
    if (shown === open && open) return;
    shown = open;
    title.textContent = open
      ? `${view.isRight(open.item) ? "★ " : ""}${view.place(open.item)}`
      : "No chunk is open yet";
    note.textContent = open ? open.note : "Search for something, or point at the map and press Enter.";
    note.hidden = note.textContent === "";
    lines.hidden = !open;
    lines.replaceChildren(...(open?.lines ?? []).map((line) => lineOf(line, right?.lines ?? [])));
    const own = lines.querySelector(".own");
    if (own instanceof HTMLElement) lines.scrollTop = own.offsetTop - lines.offsetTop - 40;
  };
  return { element, draw };
}

function lineOf([number, isOwn, pieces], answer) {
  const text = pieces.map(([piece]) => piece).join("");
  const isAnswer = isOwn && answer.includes(text.trim());
  const words = pieces.map(([piece, isMarked]) => (isMarked ? node("mark", { textContent: piece }) : piece));
  const className = [isOwn ? "own" : "around", isAnswer ? "answer" : ""].join(" ");
  const count = node("span", { className: "number", textContent: isAnswer ? "★" : (number ?? "") });
  return node("div", { className }, count, node("span", {}, ...words));
}
