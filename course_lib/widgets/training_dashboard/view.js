// The browser's half of TrainingDashboard: what the kernel tells of the run, and the orders that it is given.

import { drawAll, keepKeys, node, onNewLooks, soon } from "../shared/base.js";
import { CURVES, drawCurve, drawLosses, openPlot, rowsOf } from "../shared/curves.js";
import { kernelIsGone } from "../shared/kernel.js";
import { inUnits } from "../shared/numbers.js";

const FULFILLED = { pause: ["paused"], run: ["running"], stop: [] }; // which state is what was ordered, besides the end
const SAID = { ready: "not started", running: "running", paused: "paused", stopped: "stopped", done: "finished" };
const AGAIN = 500; // ms after which an order is given again: while a cell runs, one may be handed to the wrong shell
/** @type {[number, string][]} */
const UNITS = [
  [1e12, " trillion"],
  [1e9, " billion"],
  [1e6, " million"],
];
const PATIENCE = 10000; // ms after which it is said that the kernel does not listen

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget training-dashboard" });
  keepKeys(root);
  const view = openView(model, el);
  const panels = [controlPanel, numberPanel, curvePanel, samplePanel].map((panel) => panel(view));
  const [control, numbers, ...course] = panels.map(({ element }) => element);
  root.append(control, numbers, node("div", { className: "course" }, ...course));
  el.append(root);

  view.draw = soon(() => {
    root.dataset.state = view.state();
    drawAll(panels);
  });
  const changes = "change:state change:progress change:curves change:samples";
  model.on(changes, view.changed);
  const ignoreLooks = onNewLooks(root, view.draw);
  model.send({ type: "seen" });
  view.draw();
  return () => {
    view.close();
    model.off(changes, view.changed);
    ignoreLooks();
  };
}

// ---- What all panels share: the run, and the order that is not fulfilled yet ----

function openView(model, el) {
  let order = null;
  let since = 0;
  let isGone = false;

  const view = {
    draw: () => {},
    state: () => model.get("state"),
    isActive: () => ["running", "paused"].includes(model.get("state")),
    isGone: () => isGone,
    isUnheard: () => order !== null && performance.now() - since > PATIENCE,
    order: () => order,
    progress: () => model.get("progress"),
    curves: () => rowsOf(model.get("curves"), CURVES),
    samples: () => model.get("samples"),

    ask(wanted) {
      order = wanted;
      since = performance.now();
      model.send({ order });
      view.draw();
    },

    changed() {
      if (!view.isActive() || FULFILLED[order]?.includes(model.get("state"))) order = null;
      view.draw();
    },

    close: () => clearInterval(watch),
  };

  const watch = setInterval(() => {
    const wasGone = isGone;
    isGone = view.isActive() && kernelIsGone(model, el);
    if (isGone) order = null;
    if (order) model.send({ order });
    if (order || isGone !== wasGone) view.draw();
  }, AGAIN);
  return view;
}

// ---- How far it is, and the buttons ----

function controlPanel(view) {
  const pause = node("button", {
    type: "button",
    className: "primary",
    onclick: () => view.ask(view.state() === "paused" ? "run" : "pause"),
  });
  const stop = node("button", { type: "button", textContent: "Stop", onclick: () => view.ask("stop") });
  const state = node("b");
  const steps = node("span");
  const left = node("span", { className: "muted" });
  const bar = node("progress", { ariaLabel: "Steps made" });
  const error = node("p", { className: "error", role: "alert" });
  const diverged = node("p", { className: "error", role: "alert" });
  const live = node("p", { className: "unseen", role: "status" });
  const element = node(
    "section",
    { className: "control" },
    node(
      "header",
      {},
      node("div", { className: "how-far" }, node("h3", { textContent: "Training" }), state, steps, left),
      pause,
      stop,
    ),
    bar,
    error,
    diverged,
    live,
  );

  const draw = () => {
    const { step, n_steps, left: seconds, trouble } = view.progress();
    const isPaused = view.state() === "paused";
    const wait = { pause: "pauses after this step …", run: "goes on …", stop: "stops after this step …" }[view.order()];
    pause.textContent = isPaused ? "Resume" : "Pause";
    pause.disabled = stop.disabled = !view.isActive() || view.isGone();
    state.textContent = wait ?? SAID[view.state()];
    steps.textContent = `step ${step.toLocaleString("en")} of ${n_steps.toLocaleString("en")}`;
    left.textContent = view.state() === "running" && seconds ? `${duration(seconds)} left` : "";
    Object.assign(bar, { max: n_steps, value: step });
    const problem = view.isGone()
      ? "The kernel is not running: run the cell again."
      : view.isUnheard()
        ? "The kernel does not listen while it trains here. Interrupt it to stop."
        : "";
    if (error.textContent !== problem) error.textContent = problem;
    if (diverged.textContent !== trouble) diverged.textContent = trouble;
    diverged.hidden = !trouble;
    const news = `Training ${SAID[view.state()]}${view.state() === "running" ? "" : `, step ${step} of ${n_steps}`}`;
    if (live.textContent !== news) live.textContent = news;
  };
  return { element, draw };
}

// "45 s", "2:05 min", "3:20 h"
function duration(seconds) {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  const [big, small, unit] = whole < 3600 ? [60, 1, "min"] : [3600, 60, "h"];
  return `${Math.floor(whole / big)}:${String(Math.floor((whole % big) / small)).padStart(2, "0")} ${unit}`;
}

// ---- Numbers ----

function numberPanel(view) {
  const names = ["training loss", "validation loss", "tokens seen", "throughput", "MFU"];
  const hints = [
    "mean of the last 20 steps",
    "of the last evaluation",
    "",
    "mean of the last 20 steps",
    "model FLOPs utilisation: the share of what the machine's matrix products can reach",
  ];
  const values = names.map(() => node("dd"));
  const element = node(
    "dl",
    { className: "numbers" },
    ...names.map((textContent, i) => node("div", { title: hints[i] }, node("dt", { textContent }), values[i])),
  );
  const draw = () => {
    const { loss, validation_loss, tokens, tokens_per_second, mfu } = view.progress();
    const written = [
      [loss?.toFixed(2), "nats a token"],
      [validation_loss?.toFixed(2), "nats a token"],
      [tokens && inUnits(tokens, UNITS), ""],
      [tokens_per_second && inUnits(tokens_per_second, UNITS), "tokens/s"],
      [mfu && (100 * mfu).toPrecision(2), "%"],
    ];
    for (const [i, [number, unit]] of written.entries()) {
      values[i].replaceChildren(node("b", { textContent: number ?? "–" }), number ? ` ${unit}` : "");
    }
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
    const curves = view.curves();
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
