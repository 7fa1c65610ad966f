// A run as it happens: what the kernel tells of it, the orders that it is given, and the panels that show how far it is.

import { drawAll, keepKeys, node, onNewLooks, soon } from "./base.js";
import { kernelIsGone } from "./kernel.js";

/** @typedef {ReturnType<typeof openRun>} Run */

const FULFILLED = { pause: ["paused"], run: ["running"], stop: [] }; // which state is what was ordered, besides the end
const SAID = {
  ready: "not started",
  running: "running",
  paused: "paused",
  stopped: "stopped",
  done: "finished",
  replay: "a saved run",
};
const AGAIN = 500; // ms after which an order is given again: while a cell runs, one may be handed to the wrong shell
const PATIENCE = 10000; // ms after which it is said that the kernel does not listen

/**
 * The run, and the orders that are not fulfilled yet.
 * @param {import("./kernel.js").Model} model
 * @param {HTMLElement} el
 */
export function openRun(model, el) {
  const waiting = new Map(); // name → {message, isFulfilled, since}
  let isGone = false;

  const view = {
    draw: () => {},
    state: () => model.get("state"),
    isActive: () => ["running", "paused"].includes(model.get("state")),
    isGone: () => isGone,
    isUnheard: () => view.isActive() && [...waiting.values()].some(({ since }) => performance.now() - since > PATIENCE),
    waiting: (name) => waiting.get(name)?.message,
    progress: () => model.get("progress"),
    curves: () => model.get("curves"),
    samples: () => model.get("samples"),

    order(wanted) {
      view.ask("order", { order: wanted }, () => !view.isActive() || FULFILLED[wanted].includes(view.state()));
    },

    // Send `message`, again and again until `isFulfilled`; it takes the place of one of this name.
    ask(name, message, isFulfilled) {
      waiting.set(name, { message, isFulfilled, since: performance.now() });
      model.send(message);
      view.draw();
    },

    changed() {
      for (const [name, { isFulfilled }] of waiting) if (isFulfilled()) waiting.delete(name);
      view.draw();
    },

    close: () => clearInterval(watch),
  };

  const watch = setInterval(() => {
    const wasGone = isGone;
    isGone = kernelIsGone(model, el);
    if (isGone) waiting.clear();
    for (const { message } of waiting.values()) model.send(message);
    if (waiting.size || isGone !== wasGone) view.draw();
  }, AGAIN);
  return view;
}

/**
 * Put a run's `parts` on the page and draw its `panels` whenever something may look different; return what ends that.
 * @param {{ model: import("./kernel.js").Model, el: HTMLElement }} place
 * @param {string} className
 * @param {Run} view
 * @param {{ draw: () => void }[]} panels
 * @param {HTMLElement[]} parts
 */
export function showRun({ model, el }, className, view, panels, parts) {
  const root = node("div", { className: `course-widget run-dashboard ${className}` }, ...parts);
  keepKeys(root);
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

// ---- How far it is, and the buttons ----

/**
 * @param {Run} view
 */
export function controlPanel(view) {
  const pause = node("button", {
    type: "button",
    className: "primary",
    onclick: () => view.order(view.state() === "paused" ? "run" : "pause"),
  });
  const stop = node("button", { type: "button", textContent: "Stop", onclick: () => view.order("stop") });
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
    const wait = { pause: "pauses after this step …", run: "goes on …", stop: "stops after this step …" }[
      view.waiting("order")?.order
    ];
    pause.hidden = stop.hidden = bar.hidden = view.state() === "replay";
    pause.textContent = isPaused ? "Resume" : "Pause";
    pause.disabled = stop.disabled = !view.isActive() || view.isGone();
    state.textContent = wait ?? SAID[view.state()];
    steps.textContent = `step ${step.toLocaleString("en")} of ${n_steps.toLocaleString("en")}`;
    left.textContent = view.state() === "running" && seconds ? `${duration(seconds)} left` : "";
    Object.assign(bar, { max: n_steps, value: step });
    const problem =
      view.isActive() && view.isGone()
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

/**
 * Numbers with their names side by side; `write` takes of each its digits, if it is known, and its unit.
 * @param {[name: string, hint: string][]} entries
 */
export function numberList(entries) {
  const values = entries.map(() => node("dd"));
  const groups = entries.map(([textContent, title], i) =>
    node("div", { title }, node("dt", { textContent }), values[i]),
  );
  const element = node("dl", { className: "numbers" }, ...groups);
  /** @param {[digits: string | undefined, unit: string][]} written */
  const write = (written) => {
    for (const [i, [digits, unit]] of written.entries()) {
      values[i].replaceChildren(node("b", { textContent: digits ?? "–" }), digits ? ` ${unit}` : "");
    }
  };
  return { element, groups, write };
}
