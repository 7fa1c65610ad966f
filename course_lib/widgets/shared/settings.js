// Settings that the kernel answers to: what the learner moves is asked for at once, and shown before the answer is there.

import { node } from "./base.js";
import { openLine } from "./kernel.js";

/** @typedef {ReturnType<typeof openSettings>} View */

/**
 * `changed` is called whenever something may look different.
 * @param {import("./kernel.js").Model} model
 * @param {HTMLElement} el
 * @param {() => void} changed
 */
export function openSettings(model, el, changed) {
  const line = openLine(model, el, changed);
  model.on("change:settings change:result", changed);
  return {
    line,
    result: () => model.get("result"),
    settings: () => ({ ...model.get("settings"), ...line.pending("set")?.settings }),
    set: (changes) => line.ask({ type: "set", settings: { ...line.pending("set")?.settings, ...changes } }),
    close() {
      model.off("change:settings change:result", changed);
      line.close();
    },
  };
}

/**
 * A slider for one setting, over `values` or over `range` on a logarithmic scale; `say` writes a value.
 * @param {Pick<View, "settings" | "set">} view
 * @param {{
 *   name: string,
 *   label: string,
 *   values?: number[],
 *   range?: [lowest: number, highest: number],
 *   say: (value: number) => string,
 * }} setting
 */
export function sliderRow(view, { name, label, values, range, say }) {
  const input = node("input", { type: "range", min: 0, max: values ? values.length - 1 : 100, step: 1 });
  const said = node("b");
  const element = node("label", { className: "slider" }, node("span", { textContent: label }), input, said);
  const [low, high] = (range ?? []).map(Math.log10);
  const valueAt = (place) =>
    values ? values[place] : Number((10 ** (low + (place / 100) * (high - low))).toPrecision(2));
  const placeOf = (value) =>
    values ? nearest(values, value) : Math.round((100 * (Math.log10(value) - low)) / (high - low));
  input.addEventListener("input", () => view.set({ [name]: valueAt(input.valueAsNumber) }));

  function draw() {
    const value = view.settings()[name];
    input.value = placeOf(value);
    said.textContent = input.ariaValueText = say(value);
  }
  return { element, draw };
}

function nearest(values, wanted) {
  if (values.includes(wanted)) return values.indexOf(wanted); // 0 too, which has no logarithm
  const away = values.map((value) => Math.abs(Math.log(value / wanted)));
  return away.indexOf(Math.min(...away));
}

/**
 * Buttons of which one is chosen: `choices` are [value, text].
 * @template Value
 * @param {{
 *   label: string,
 *   choices: [value: Value, text: string][],
 *   chosen: () => Value,
 *   choose: (value: Value) => void,
 * }} choice
 */
export function choiceRow({ label, choices, chosen, choose }) {
  const buttons = choices.map(([value, textContent]) =>
    node("button", { type: "button", textContent, onclick: () => choose(value) }),
  );
  const modes = node("div", { className: "modes", role: "group", ariaLabel: label }, ...buttons);
  function draw() {
    for (const [i, button] of buttons.entries()) button.ariaPressed = String(choices[i][0] === chosen());
  }
  return { element: modes, draw };
}

/**
 * What went wrong, if anything.
 * @param {View} view
 */
export function errorPanel(view) {
  const element = node("p", { className: "error", role: "alert" });
  return { element, draw: () => (element.textContent = view.line.error) };
}
