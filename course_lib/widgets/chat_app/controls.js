// The settings: what the model is told before everything, what it forgets, and how its words are drawn.

import { drawAll, node } from "../shared/base.js";
import { choiceRow, sliderRow } from "../shared/settings.js";
import { keepTyping } from "./typing.js";

const TEMPERATURES = Array.from({ length: 41 }, (_, i) => i / 20);
const SHARES = Array.from({ length: 20 }, (_, i) => (i + 1) / 20);
const LENGTHS = [10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4096];

export function settingsPanel(chat) {
  const system = node("textarea", { rows: 2, spellcheck: false, placeholder: "none" });
  const memory = choiceRow({
    label: "When the context is full",
    choices: [
      ["drop", "drop the oldest turns"],
      ["summarise", "summarise them"],
    ],
    chosen: () => chat.settings().memory,
    choose: (value) => chat.set({ memory: value }),
  });
  const sliders = [
    {
      name: "temperature",
      label: "temperature",
      values: TEMPERATURES,
      say: (value) => (value === 0 ? "0, greedy" : value.toFixed(2)),
    },
    { name: "top_p", label: "top-p", values: SHARES, say: (value) => (value === 1 ? "off" : value.toFixed(2)) },
    {
      name: "max_new_tokens",
      label: "reply",
      values: LENGTHS,
      say: (value) => `${value.toLocaleString("en")} tokens at most`,
    },
  ].map((setting) => sliderRow(chat, setting));
  const seed = node("input", { type: "number", min: 0, max: 2 ** 32, step: 1 });
  const left = node(
    "div",
    {},
    node("label", { className: "system" }, node("span", { textContent: "system prompt" }), system),
    node("div", { className: "memory" }, node("span", { textContent: "when the context is full" }), memory.element),
  );
  const right = node(
    "div",
    {},
    ...sliders.map(({ element }) => element),
    node("label", { className: "slider" }, node("span", { textContent: "seed" }), seed),
  );
  const element = node(
    "details",
    { className: "settings" },
    node("summary", { textContent: "Settings" }),
    node("div", { className: "panels" }, left, right),
  );

  keepTyping(
    system,
    () => system.blur(),
    () => {
      system.value = chat.settings().system;
      system.blur();
    },
  );
  system.addEventListener("change", () => chat.set({ system: system.value }));
  seed.addEventListener("change", () => seed.validity.valid && chat.set({ seed: seed.valueAsNumber || 0 }));

  function draw() {
    const settings = chat.settings();
    drawAll([memory, ...sliders]);
    system.disabled = chat.isWriting();
    for (const button of memory.element.querySelectorAll("button")) button.disabled = chat.isWriting();
    if (document.activeElement !== system) system.value = settings.system;
    if (document.activeElement !== seed) seed.value = settings.seed;
  }
  return { element, draw };
}
