// The browser's half of RLHFDashboard: the leash, the curves with a slider along them, and answers before and after.

import { node } from "../shared/base.js";
import { drawCurve, openPlot, rowsOf, segment } from "../shared/curves.js";
import { short } from "../shared/numbers.js";
import { controlPanel, numberList, openRun, showRun } from "../shared/runs.js";
import { sliderRow } from "../shared/settings.js";

const ROWS = ["step", "reward", "true_reward", "kl", "entropy", "length", "kl_weight"]; // as in picture.py
const LEASHES = [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];
const HEIGHT = 200; // CSS pixels of a plot

// The KL of a policy that is still its reference is a rounding error, and shown as 0.
const measured = (value) => short(Number(value.toFixed(3)), 2);

export default { render };

function render({ model, el }) {
  const run = openRun(model, el);
  let at = null; // the block looked at; null: the newest, whichever that is
  const view = Object.assign(run, {
    rows: () => rowsOf(run.curves(), ROWS),
    prompts: () => model.get("prompts"),
    before: () => model.get("before"),
    at: () => Math.min(at ?? Number.POSITIVE_INFINITY, view.rows().step.length - 1), // -1 before the first step
    go(wanted) {
      at = wanted >= view.rows().step.length - 1 ? null : wanted;
      run.draw();
    },
  });
  const panels = [controlPanel, leashPanel, scrubPanel, numberPanel, curvePanel, samplePanel].map((panel) =>
    panel(view),
  );
  const parts = panels.map(({ element }) => element);
  return showRun({ model, el }, "rlhf-dashboard", view, panels, parts);
}

// ---- The leash, and which step is looked at ----

function leashPanel(view) {
  const first = view.progress().kl_weight;
  const values = [...new Set([...LEASHES, first])].sort((a, b) => a - b);
  const asked = () => view.waiting("leash")?.kl_weight;
  const settings = {
    settings: () => ({ kl_weight: asked() ?? view.progress().kl_weight }),
    set: (wanted) => view.ask("leash", wanted, () => view.progress().kl_weight === wanted.kl_weight),
  };
  const say = (value) => `${short(value)} reward a nat${asked() === undefined ? "" : ", from the next step"}`;
  const row = sliderRow(settings, { name: "kl_weight", label: "Leash (weight of the KL)", values, say });
  const draw = () => {
    row.element.hidden = view.state() === "replay";
    row.element.querySelector("input").disabled = view.isGone();
    row.draw();
  };
  return { element: row.element, draw };
}

function scrubPanel(view) {
  const input = node("input", { type: "range", min: 0, step: 1 });
  const said = node("b");
  const element = node("label", { className: "slider" }, node("span", { textContent: "Step looked at" }), input, said);
  input.addEventListener("input", () => view.go(input.valueAsNumber));
  const draw = () => {
    const { step } = view.rows();
    input.disabled = step.length === 0;
    Object.assign(input, { max: Math.max(0, step.length - 1), value: Math.max(0, view.at()) });
    said.textContent = input.ariaValueText = step.length ? step[view.at()].toLocaleString("en") : "none yet";
  };
  return { element, draw };
}

// ---- Numbers ----

function numberPanel(view) {
  const { element, groups, write } = numberList([
    ["learned reward", "what the policy is trained on, mean of the step's answers"],
    ["true reward", "of a judge that the policy is not trained on"],
    ["KL to the reference", "how far the policy has moved"],
    ["entropy", "how open it is what comes next"],
    ["length", "the stop token counted"],
    ["leash", "weight of the KL at this step"],
  ]);
  const draw = () => {
    const rows = view.rows();
    const number = (name) => (Number.isFinite(rows[name][view.at()]) ? measured(rows[name][view.at()]) : undefined);
    groups[1].hidden = !rows.true_reward.some(Number.isFinite);
    write([
      [number("reward"), ""],
      [number("true_reward"), ""],
      [number("kl"), "nats an answer"],
      [number("entropy"), "nats a token"],
      [number("length"), "tokens"],
      [view.at() < 0 ? undefined : short(rows.kl_weight[view.at()], 2), "reward a nat"],
    ]);
  };
  return { element, draw };
}

// ---- Curves: the rewards, and what they cost ----

function curvePanel(view) {
  const judged = node("span", { className: "sample validation", textContent: "true" });
  const learned = node("span", { className: "sample training", textContent: "learned" });
  const title = (textContent) => [node("span", { textContent })];
  const plots = [
    plotOf(view, "reward", "reward", ["reward", "true_reward"], [learned, judged]),
    plotOf(view, "KL", "KL (nats)", ["kl"], title("KL to the reference, nats an answer")),
    plotOf(view, "entropy", "entropy (nats)", ["entropy"], title("entropy, nats a token")),
    plotOf(view, "length", "tokens", ["length"], title("length of an answer, tokens")),
  ];
  const element = node("section", { className: "curves" }, ...plots.map((plot) => plot.element));
  const draw = () => {
    if (element.clientWidth === 0) return; // not on the page yet, or in a hidden tab
    judged.hidden = !view.rows().true_reward.some(Number.isFinite);
    for (const plot of plots) plot.draw();
  };
  return { element, draw };
}

/**
 * A plot of one or two of the rows: the first is the policy's own, in violet, if a second is there to compare it with.
 * @param {any} view
 * @param {string} name
 * @param {string} label
 * @param {string[]} rowNames
 * @param {HTMLElement[]} legend
 */
function plotOf(view, name, label, rowNames, legend) {
  const [first, second] = rowNames;
  const canvas = node("canvas", { role: "img" });
  const element = node("div", {}, node("p", { className: "key-to" }, ...legend), canvas);
  let plot = null;
  const follow = (event) => {
    const { step } = view.rows();
    const away = [...step].map((other) => Math.abs(other - plot.stepAt(event.offsetX)));
    if (away.length) view.go(away.indexOf(Math.min(...away)));
  };
  canvas.addEventListener("pointerdown", follow);
  canvas.addEventListener("pointermove", (event) => event.buttons && follow(event));

  const draw = () => {
    const rows = view.rows();
    const { n_steps: nSteps } = view.progress();
    const [low, high] = bounds([...rows[first], ...(second ? rows[second] : [])].filter(Number.isFinite));
    plot = openPlot(canvas, { width: element.clientWidth, height: HEIGHT, nSteps, low, high, label, isLast: true });
    const { look } = plot;
    markLeash(plot, rows, first === "kl");
    drawCurve(plot, rows.step, rows[first], second ? { color: look.learner } : { color: look.ink, width: 1.5 });
    if (second) {
      const dots = rows[second].filter(Number.isFinite).length <= 60;
      drawCurve(plot, rows.step, rows[second], { color: look.ink, width: 1.5, dash: [6, 4], dots });
    }
    const at = view.at();
    if (at >= 0) {
      Object.assign(plot.ctx, { strokeStyle: look.ink, lineWidth: 2 });
      segment(plot.ctx, plot.x(rows.step[at]), 0, plot.x(rows.step[at]), plot.bottom);
    }
    canvas.ariaLabel = `${name} over ${rows.step.at(-1) ?? 0} of ${nSteps} steps${fromTo(rows[first])}`;
  };
  return { element, draw };
}

// A dotted line where the leash was changed, and if `isSaid`, what it was from there on.
function markLeash({ ctx, look, x, bottom, width }, { step, kl_weight }, isSaid) {
  ctx.save();
  Object.assign(ctx, { strokeStyle: look.muted, fillStyle: look.muted, lineWidth: 1.5, textBaseline: "bottom" });
  ctx.setLineDash([2, 3]);
  for (let i = 1; i < step.length; i++) {
    if (kl_weight[i] === kl_weight[i - 1]) continue;
    const left = x(step[i - 1]);
    segment(ctx, left, 0, left, bottom);
    if (!isSaid) continue;
    const isNearEnd = left > 0.75 * width;
    ctx.textAlign = isNearEnd ? "right" : "left";
    ctx.fillText(`leash ${short(kl_weight[i], 2)}`, left + (isNearEnd ? -4 : 4), bottom - 2);
  }
  ctx.restore();
}

// What an axis must hold so that none of `values` touches its ends.
function bounds(values) {
  const [least, most] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const room = Math.max((most - least) / 10, 0.01 * Math.abs(most), 0.02);
  return [least > -1e-3 ? Math.max(0, least - room) : least - room, most + room];
}

function fromTo(values) {
  const known = values.filter(Number.isFinite);
  return known.length ? `: from ${measured(known[0])} to ${measured(known.at(-1))}` : "";
}

// ---- What the reference answers, and what the policy does ----

function samplePanel(view) {
  const after = node("th", { scope: "col" });
  const body = node("tbody");
  const headings = ["prompt", "before"].map((textContent) => node("th", { scope: "col", textContent }));
  const table = node("table", {}, node("thead", {}, node("tr", {}, ...headings, after)), body);
  const title = node("h3", { textContent: "What it answers, drawn by the same random numbers" });
  const element = node("section", { className: "samples" }, title, table);
  let shown = null;
  const draw = () => {
    const { step } = view.rows();
    const looked = step[view.at()] ?? 0;
    const sample = view.samples().findLast((sample) => sample.step <= looked) ?? view.samples()[0];
    element.hidden = sample === undefined;
    if (shown === sample || sample === undefined) return;
    shown = sample;
    after.textContent = `after step ${sample.step.toLocaleString("en")}`;
    body.replaceChildren(
      ...view.prompts().map((prompt, i) => node("tr", {}, ...cells(prompt, view.before()[i], sample.texts[i]))),
    );
  };
  return { element, draw };
}

function cells(prompt, before, after) {
  const isSame = before === after;
  return [
    node("th", { scope: "row", className: "muted", textContent: prompt }),
    node("td", { textContent: before }),
    node("td", isSame ? { className: "muted", textContent: "the same" } : { textContent: after }),
  ];
}
