// The line to the kernel, and the panel in which the learner types the text that the model runs on.

import { node, soon } from "./base.js";

/**
 * The widget's state in the browser, as anywidget hands it over.
 * @typedef {{
 *   get: (name: string) => any,
 *   set: (name: string | object, value?: any) => void,
 *   save_changes: () => void,
 *   send: (message: object) => void,
 *   on: (events: string, call: (...parts: any[]) => void) => void,
 *   off: (events: string, call: (...parts: any[]) => void) => void,
 *   widget_manager?: any,
 * }} Model
 * @typedef {{ type: string } & Record<string, any>} Request
 * @typedef {ReturnType<typeof openLine>} Line
 */

const KERNEL_GONE = "The kernel is not running: run the cell again to bring the model back.";

/**
 * A restarted kernel knows no widgets; a kernel shut down or cut off answers nothing.
 * @param {Model} model
 * @param {HTMLElement} el
 */
export function kernelIsGone(model, el) {
  const kernel = model.widget_manager?.kernel;
  if (el.closest(".jupyter-widgets-disconnected") || kernel === null) return true;
  return (
    kernel !== undefined &&
    (kernel.isDisposed || kernel.status === "dead" || kernel.connectionStatus === "disconnected")
  );
}

/**
 * Requests to the kernel, one at a time. Those asked for meanwhile wait, of each type only the newest. The kernel answers
 * every request with one message, `done` or `error`, and may send messages of the type `progress` before it. `changed` is
 * called whenever something may look different.
 * @param {Model} model
 * @param {HTMLElement} el
 * @param {() => void} changed
 */
export function openLine(model, el, changed) {
  let running = null;
  let waiting = [];
  let watch = null;

  const line = {
    progress: null, // {done, total} of a run
    error: "",
    isGone: () => kernelIsGone(model, el),
    isBusy: () => running !== null,
    // The newest request of this type that is not answered yet.
    pending: (type) => [running, ...waiting].findLast((request) => request?.type === type),

    ask(request) {
      waiting = [...waiting.filter(({ type }) => type !== request.type), request];
      if (!running) next();
      changed();
    },

    close() {
      clearInterval(watch);
      model.off("msg:custom", receive);
    },
  };

  function next() {
    running = waiting.shift();
    line.error = "";
    if (line.isGone()) return stop(KERNEL_GONE);
    if (running.type === "run") line.progress = { done: 0, total: 1 };
    watch = setInterval(() => line.isGone() && stop(KERNEL_GONE), 500);
    model.send(running);
  }

  function stop(error = "") {
    clearInterval(watch);
    running = line.progress = null;
    line.error = error;
    if (error) waiting = [];
    if (waiting.length) next();
    changed();
  }

  function receive(message) {
    if (message.type === "progress") {
      line.progress = message;
      changed();
    }
    if (message.type === "done") stop();
    if (message.type === "error") stop(message.message);
  }

  model.on("msg:custom", receive);
  return line;
}

/**
 * The text, how far the model is, and what went wrong. `status` says what there is when nothing runs.
 * @param {{
 *   line: Line,
 *   label: string,
 *   text: () => string,
 *   run: (text: string) => void,
 *   status: () => string,
 *   action?: string,
 * }} options
 */
export function promptPanel({ line, label, text, run, status, action = "Run" }) {
  const input = node("input", { type: "text", value: text(), ariaLabel: label, spellcheck: false });
  const button = node("button", { className: "primary", textContent: action });
  const bar = node("progress", { ariaLabel: "Done so far" });
  const said = node("p", { className: "muted", role: "status" });
  const error = node("p", { className: "error", role: "alert" });
  const live = node("p", { className: "unseen", ariaLive: "polite" });
  const form = node("form", {}, input, button);
  const element = node("section", { className: "prompt" }, form, bar, node("div", {}, error, said), live);
  let shownText = text();
  let isTyped = false; // since the last run was asked for

  input.addEventListener("input", () => (isTyped = true));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    isTyped = false;
    run(input.value);
  });

  const draw = soon(() => {
    const { progress } = line;
    if (shownText !== text()) {
      if (!isTyped && input.value === shownText) input.value = text(); // else somebody is typing, or has asked for this text
      shownText = text();
    }
    bar.style.visibility = progress ? "visible" : "hidden";
    bar.max = progress?.total ?? 1;
    bar.value = progress?.done ?? 0;
    error.textContent = line.error;
    said.textContent = progress ? progressText(progress) : status();
    said.hidden = line.error !== "";
  });
  return { element, draw, announce: (words) => (live.textContent = words) };
}

function progressText({ done, total, unit = "layer" }) {
  return done ? `Running the model: ${unit} ${done} of ${total}` : "Waiting for the kernel …";
}
