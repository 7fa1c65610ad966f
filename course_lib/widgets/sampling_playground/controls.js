// How the next token is drawn: a slider for each setting, and where the probability goes.

import { drawAll, node, soon } from "../shared/base.js";
import { twoDigits } from "../shared/odds.js";

const TOP_K = [1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 500, 1000, null]; // null: off
const PATTERNS = ["drawn", "plain", "plain", "down", "up", "dots"]; // classes, in the order of the shares

// Each setting: its name, what it is called, its slider, and the value at a place of the slider and back.
export const SETTINGS = [
  {
    name: "temperature",
    label: "temperature",
    slider: { min: 0, max: 2, step: 0.05 },
    valueAt: (place) => place,
    placeOf: (value) => value,
    say: (value) => (value === 0 ? "0, greedy" : value.toFixed(2)),
  },
  {
    name: "top_k",
    label: "top-k",
    slider: { min: 0, max: TOP_K.length - 1, step: 1 },
    valueAt: (place) => TOP_K[place],
    placeOf: (value) => TOP_K.findIndex((k) => k === null || (value !== null && k >= value)),
    say: (value) => (value === null ? "off" : `${value} likeliest`),
  },
  {
    name: "top_p",
    label: "top-p",
    slider: { min: 0.01, max: 1, step: 0.01 },
    valueAt: (place) => (place === 1 ? null : place),
    placeOf: (value) => value ?? 1,
    say: (value) => (value === null ? "off" : value.toFixed(2)),
  },
  {
    name: "min_p",
    label: "min-p",
    slider: { min: 0, max: 1, step: 0.01 },
    valueAt: (place) => (place === 0 ? null : place),
    placeOf: (value) => value ?? 0,
    say: (value) => (value === null ? "off" : `${value.toFixed(2)} × likeliest`),
  },
];

export function settingsPanel(playground) {
  const rows = SETTINGS.map((setting) => sliderRow(playground, setting));
  const bar = node("div", { className: "share", ariaHidden: "true" });
  const table = node("table");
  const entropy = node("p");
  const element = node(
    "section",
    { className: "settings" },
    node("h3", { textContent: "How it is drawn" }),
    ...rows.map((row) => row.element),
    node("h3", { textContent: "Where the probability goes" }),
    bar,
    table,
    entropy,
  );

  const draw = soon(() => {
    drawAll(rows);
    const { shares, filters, entropy: bits } = playground.result();
    const names = ["can be drawn", ...filters.map((name) => `cut by ${name}`)];
    const shown = shares
      .map(([tokens, share], i) => ({ tokens, share, name: names[i], pattern: PATTERNS[i] }))
      .filter(({ tokens }, i) => i === 0 || tokens > 0);
    bar.replaceChildren(
      ...shown.map(({ share, pattern }) => {
        const part = node("i", { className: pattern });
        part.style.flexGrow = share;
        return part;
      }),
    );
    const head = node(
      "tr",
      {},
      node("td", { colSpan: 2 }),
      ...["tokens", "probability"].map((textContent) => node("th", { scope: "col", textContent })),
    );
    table.replaceChildren(
      head,
      ...shown.map(({ tokens, share, name, pattern }) =>
        node(
          "tr",
          {},
          node("td", {}, node("i", { className: pattern })),
          node("th", { scope: "row", textContent: name }),
          node("td", { textContent: tokens.toLocaleString("en") }),
          node("td", { textContent: twoDigits(share) }),
        ),
      ),
    );
    entropy.textContent = `Entropy ${bits[1].toFixed(2)} bits; the model’s own ${bits[0].toFixed(2)}.`;
  });
  return { element, draw };
}

function sliderRow(playground, { name, label, slider, valueAt, placeOf, say }) {
  const input = node("input", { type: "range", ...slider });
  const said = node("b");
  const element = node("label", { className: "slider" }, node("span", { textContent: label }), input, said);
  input.addEventListener("input", () => playground.set(name, valueAt(Number(input.value))));

  function draw() {
    const value = playground.settings()[name];
    input.value = placeOf(value);
    said.textContent = input.ariaValueText = say(value);
  }
  return { element, draw };
}
