// Probabilities of tokens as bars: filled is `now` and, where there is one, dashed is `before`; what is `out` is struck out.

import { node } from "./base.js";

/**
 * `before` names the dashed bars; `describe` puts a token's row in words; with `pick`, a token is a button that calls it.
 * @param {{
 *   now?: string,
 *   before?: string,
 *   describe: (token: any) => string,
 *   pick?: (token: any) => void,
 * }} options
 */
export function oddsChart({ now = "now", before, describe, pick }) {
  const samples = [
    ["now", now],
    ["before", before],
  ].filter(([, text]) => text && before);
  const list = node("ol");
  const limit = node("span");
  const axis = node("div", { className: "axis muted" }, node("span", { textContent: "0" }), "probability", limit);
  const legend = node(
    "p",
    { className: "samples" },
    ...samples.map(([kind, textContent]) => node("span", { className: `sample ${kind}`, textContent })),
  );
  const element = node("div", { className: "odds" }, ...(before ? [legend] : []), list, axis);
  const rows = []; // kept and only restyled, so that a bar moves from its old length to its new one

  function newRow(index) {
    const parts = {
      chip: node(pick ? "button" : "span", { className: "chip" }),
      now: node("i", { className: "now" }),
      before: node("i", { className: "before", hidden: !before }),
      value: node("b"),
      note: node("span", { className: "note muted" }),
      element: node("li"),
    };
    if (pick) parts.chip.addEventListener("click", () => pick(rows[index].token));
    const track = node("span", { className: "track" }, parts.now, parts.before);
    parts.element.append(parts.chip, track, parts.value, ...(pick ? [parts.note] : []));
    return parts;
  }

  /** @param {(import("./base.js").Token & { now: number, before?: number, note?: string, out?: string })[]} tokens */
  function show(tokens) {
    const most = Math.max(...tokens.flatMap(({ now, before = 0 }) => [now, before]));
    const scale = [0.05, 0.1, 0.2, 0.5, 1].find((limit) => limit >= most) ?? 1;
    tokens.forEach((token, index) => {
      rows[index] ??= newRow(index);
      const row = rows[index];
      row.token = token;
      Object.assign(row.chip, { textContent: token.chip, title: `${JSON.stringify(token.piece)}, id ${token.id}` });
      row.now.style.width = `${(100 * token.now) / scale}%`;
      row.before.style.width = `${(100 * (token.before ?? 0)) / scale}%`;
      row.value.textContent = twoDigits(token.now);
      row.note.textContent = token.note ?? "";
      row.element.ariaLabel = describe(token);
      row.element.classList.toggle("out", Boolean(token.out)); // struck out
    });
    const shown = rows.slice(0, tokens.length).map((row) => row.element);
    if (list.childElementCount !== shown.length) list.replaceChildren(...shown); // a row that stays keeps its focus
    limit.textContent = String(scale);
  }

  return { element, show };
}

/**
 * Two significant digits, as in every picture of the course.
 * @param {number} probability
 */
export function twoDigits(probability) {
  if (probability === 0) return "0";
  return probability < 0.001 ? "<0.001" : probability >= 0.995 ? "1.0" : probability.toPrecision(2);
}

/**
 * Show a probability as the tint behind an element's text. Its depth says which text colour stays legible on it.
 * @param {HTMLElement} element
 * @param {number} probability
 */
export function tint(element, probability) {
  element.classList.add("tint");
  element.style.setProperty("--p", String(probability));
  element.dataset.depth = probability > 0.83 ? "2" : probability > 0.6 ? "1" : "0";
}

/**
 * The legend of `tint`, which shows the probability called `name`.
 * @param {string} name
 */
export function tintLegend(name) {
  return node("div", { className: "legend" }, `${name} 0`, node("span", { className: "ramp" }), "1");
}
