// The browser's half of TrainingDashboard: numbers, losses, and what the model writes.

import { node } from "../shared/base.js";
import { CURVES, drawCurve, drawLosses, openPlot, rowsOf } from "../shared/curves.js";
import { inUnits } from "../shared/numbers.js";
import { controlPanel, numberList, openRun, showRun } from "../shared/runs.js";

/** @type {[number, string][]} */
const UNITS = [
  [1e12, " trillion"],
  [1e9, " billion"],
  [1e6, " million"],
];

export default { render };

function render({ model, el }) {
  const view = openRun(model, el);
  const panels = [controlPanel, numberPanel, curvePanel, samplePanel].map((panel) => panel(view));
  const [control, numbers, ...course] = panels.map(({ element }) => element);
  const parts = [control, numbers, node("div", { className: "course" }, ...course)];
  return showRun({ model, el }, "training-dashboard", view, panels, parts);
}

// ---- Numbers ----

function numberPanel(view) {
  const { element, write } = numberList([
    ["training loss", "mean of the last 20 steps"],
    ["validation loss", "of the last evaluation"],
    ["tokens seen", ""],
    ["throughput", "mean of the last 20 steps"],
    ["MFU", "model FLOPs utilisation: the share of what the machine's matrix products can reach"],
  ]);
  const draw = () => {
    const { loss, validation_loss, tokens, tokens_per_second, mfu } = view.progress();
    write([
      [loss?.toFixed(2), "nats a token"],
      [validation_loss?.toFixed(2), "nats a token"],
      [tokens && inUnits(tokens, UNITS), ""],
      [tokens_per_second && inUnits(tokens_per_second, UNITS), "tokens/s"],
      [mfu && (100 * mfu).toPrecision(2), "%"],
    ]);
  };
  return { element, draw };
}

// ---- Losses, and below them the learning rate ----

function curvePanel(view) {
  const losses = node("canvas", { role: "img" });
  const rates = node("canvas", { role: "img" });
  const validation = node("span", { className: "sample validation", textContent: "validation" });
  const legend = node(
    "p",
    { className: "key-to" },
    node("span", { className: "sample training", textContent: "training" }),
    validation,
  );
  const title = node("p", { className: "key-to" }, node("span", { textContent: "learning rate" }));
  const element = node("section", { className: "curves" }, legend, losses, title, rates);
  const draw = () => {
    if (element.clientWidth === 0) return; // not on the page yet, or in a hidden tab
    const curves = rowsOf(view.curves(), CURVES);
    const { n_steps: nSteps, step, loss, validation_loss } = view.progress();
    const shared = { width: element.clientWidth, nSteps };
    validation.hidden = !curves.validation_loss.some(Number.isFinite);
    drawLosses(losses, { ...shared, curves, height: 250, isLast: false });
    const highest = Math.max(...curves.learning_rate.filter(Number.isFinite), 1e-9);
    const plot = openPlot(rates, { ...shared, height: 130, low: 0, high: 1.1 * highest, label: "rate", isLast: true });
    drawCurve(plot, curves.step, curves.learning_rate, { color: plot.look.ink, width: 1.5 });
    const ended = loss
      ? `: training ${loss.toFixed(2)}${validation_loss ? `, validation ${validation_loss.toFixed(2)}` : ""} nats a token`
      : "";
    losses.ariaLabel = `Loss over ${step} of ${nSteps} steps${ended}`;
    rates.ariaLabel = "Learning rate by step";
  };
  return { element, draw };
}

// ---- What the model writes, newest first ----

function samplePanel(view) {
  const list = node("ol", { ariaLabel: "What the model writes, newest first", tabIndex: 0 });
  const element = node("section", { className: "samples" }, node("h3", { textContent: "What the model writes" }), list);
  let shown = null;
  const draw = () => {
    const { prompt } = view.progress();
    element.hidden = prompt === null;
    if (shown === view.samples()) return;
    shown = view.samples();
    list.replaceChildren(
      ...shown
        .toReversed()
        .map(({ step, text }) =>
          node(
            "li",
            {},
            node("b", { textContent: `step ${step.toLocaleString("en")}` }),
            node("p", {}, node("span", { className: "muted", textContent: prompt }), text),
          ),
        ),
    );
  };
  return { element, draw };
}
