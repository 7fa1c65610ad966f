// What is answered: by the model after the passages that were found and without them, and by the nearest line alone.

import { node } from "../shared/base.js";
import { short } from "../shared/numbers.js";
import { sliderRow } from "../shared/settings.js";

const THRESHOLDS = Array.from({ length: 21 }, (_, i) => i / 20);

/**
 * Whether to answer at all, and the answers side by side.
 * @param {import("./view.js").Explorer} view
 */
export function answersPanel(view) {
  const hasModel = view.get("has_model");
  const button = node("button", { type: "button", className: "primary" });
  button.textContent = hasModel ? "Answer" : "Find the nearest line";
  button.addEventListener("click", () => view.line.ask({ type: "answer" }));
  const passages = sliderRow(view, {
    name: "passages",
    label: "passages given",
    values: [1, 2, 3, 4, 5],
    say: String,
  });
  const threshold = sliderRow(view, {
    name: "threshold",
    label: "threshold",
    values: THRESHOLDS,
    say: (t) => short(t),
  });
  const gauge = gaugePanel(view);
  const sides = [
    ...(hasModel
      ? [sideOf(view, "with", "The model, with the passages"), sideOf(view, "without", "The model, without")]
      : []),
    sideOf(view, "quote", "The nearest line, no model"),
  ];
  const controls = node(
    "div",
    { className: "controls" },
    button,
    passages.element,
    ...(hasModel ? [threshold.element] : []),
  );
  const row = node("div", { className: "sides", ariaLive: "polite" }, ...sides.map(({ element }) => element));
  const title = node("h3", { textContent: "What is answered" });
  const element = node("section", { className: "answers" }, title, controls, gauge.element, row);

  const draw = () => {
    const isAsked = view.settings().query !== null;
    element.hidden = !isAsked;
    button.disabled = view.line.pending("answer") !== undefined;
    for (const part of [passages, threshold, gauge, ...sides]) part.draw();
  };
  return { element, draw };
}

function gaugePanel(view) {
  const fill = node("i");
  const tick = node("b");
  const bar = node("div", { className: "gauge" }, fill, tick);
  bar.ariaHidden = "true";
  const said = node("p", { role: "status" });
  const element = node("div", { className: "confidence" }, bar, said);
  element.hidden = !view.get("has_model");

  const draw = () => {
    const { confidence, refused } = view.result();
    if (confidence === null) return;
    const { threshold } = view.settings();
    fill.style.width = `${100 * confidence}%`;
    tick.style.left = `${100 * threshold}%`;
    const verdict = refused ? "is below the threshold: refused." : "reaches the threshold: answered.";
    said.textContent = `Confidence ${short(confidence, 2)} ${verdict} It is the share of the query's rare words that stand in the best chunk by words.`;
    element.classList.toggle("refused", refused);
  };
  return { element, draw };
}

function sideOf(view, side, title) {
  const heading = node("h4", { textContent: title });
  const text = node("p", { className: "text" });
  const right = node("p", { className: "verdict" });
  const link = node("button", { type: "button", className: "to-source" });
  const element = node("div", { className: `side ${side}` }, heading, text, right, link);
  link.addEventListener("click", () => view.open(view.result()[side].source));

  const draw = () => {
    const answer = view.result()[side];
    const isWriting = view.line.pending("answer") !== undefined;
    text.textContent = answer?.text ?? (isWriting ? "Writing …" : "Not asked yet.");
    text.classList.toggle("muted", !answer);
    right.textContent = verdictOn(answer, view.result().right);
    link.hidden = !answer || answer.source === null;
    if (!link.hidden) link.textContent = `source: ${view.place(answer.source)}`;
  };
  return { element, draw };
}

function verdictOn(answer, right) {
  if (!answer || !right || answer.right === null) return "";
  return answer.right ? "✓ right" : `✗ expected: ${right.answer}`;
}
