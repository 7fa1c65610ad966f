// The browser's half of ExerciseCheck. The outcome does not change; hints and the solution open on request.

import { drawing, node } from "../shared/base.js";
import { card, prose, results } from "../shared/card.js";

// Each status has a shape of its own as well as a colour: disc, diamond, triangle, dashed ring.
const STATUS = {
  passed: { word: "Passed", shape: "M10 1a9 9 0 1 0 0 18a9 9 0 0 0 0-18z", mark: "M5.6 10.4l3 3l5.8-6.6" },
  wrong: { word: "Not yet", shape: "M10 .5l9.5 9.5l-9.5 9.5l-9.5-9.5z", mark: "M7 7l6 6M13 7l-6 6" },
  error: { word: "Stopped with an error", shape: "M10 1l9.5 17.5h-19z", mark: "M10 7v5.5M10 15v.8" },
  "not attempted": { word: "Not attempted", shape: "M10 1.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 0 0 0-17z", mark: "" },
};

export default { render };

function render({ model, el }) {
  const status = model.get("status");
  const hints = model.get("hints");
  const root = card("section", `exercise-check ${status.replace(" ", "-")}`);
  root.setAttribute("aria-label", `Exercise ${model.get("exercise")}`);

  const opened = node("ol");
  const hintButton = node("button", { type: "button", onclick: openHint });
  const solutionButton = node("button", { type: "button", textContent: "Show the solution", onclick: openSolution });
  const note = node("span", { className: "muted" });
  const further = node("div", { ariaLive: "polite" }, opened);
  const buttons = node("div", { className: "buttons" }, hintButton, solutionButton, note);
  root.append(...verdict(model), buttons, further);
  el.append(root);
  update();

  function openHint() {
    opened.append(prose("li", hints[opened.children.length]));
    update();
    if (hintButton.hidden) solutionButton.focus();
  }

  function openSolution() {
    const code = node("pre", { tabIndex: 0 }, node("code", { textContent: model.get("solution").trimEnd() }));
    further.append(code, prose("p", model.get("why")));
    buttons.hidden = true;
    code.focus();
  }

  function update() {
    const seen = opened.children.length;
    const isPassed = status === "passed";
    hintButton.hidden = isPassed || seen === hints.length;
    hintButton.textContent = `Hint ${seen + 1} of ${hints.length}`;
    solutionButton.disabled = !isPassed && seen < hints.length;
    note.textContent = solutionButton.disabled ? "The solution opens after the last hint." : "";
  }
}

function verdict(model) {
  const status = model.get("status");
  const heading = node("h3", { textContent: `Exercise ${model.get("exercise")} · ${model.get("title")}` });
  const line = node("p", { className: "status", role: "status" }, icon(status), STATUS[status].word);
  const message = model
    .get("message")
    .split("\n")
    .filter(Boolean)
    .map((text) => prose("p", text));
  return [heading, line, ...message, results(["Yours", model.get("got"), "own"], ["Wanted", model.get("wanted"), ""])];
}

function icon(status) {
  const svg = drawing("svg", { viewBox: "0 0 20 20", width: 20, height: 20, "aria-hidden": "true" });
  const { shape, mark } = STATUS[status];
  svg.append(drawing("path", { class: "shape", d: shape }), drawing("path", { class: "mark", d: mark }));
  return svg;
}
