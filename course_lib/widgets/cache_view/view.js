// The browser's half of CacheView: positions × steps for both sides, and beside it what the step looked at has cost.
// One token is one message: the kernel is never busy for longer, and stopping means to ask for no more.

import { clamp, drawAll, fit, keepKeys, lookOf, node, onNewLooks, soon, tokenChip } from "../shared/base.js";
import { openLine, promptPanel } from "../shared/kernel.js";
import { counted, short } from "../shared/numbers.js";

const SIDES = { uncached: "Without a cache", cached: "With a key/value cache" };
const ROLES = ["query", "key", "value"];
const CELL = { narrowest: 12, legible: 17, widest: 22, height: 16 }; // CSS pixels
const GUTTER = 30; // the step's number, and above it the position's
const MARGIN = 8;
const BREATH = 30; // ms between two tokens, for the picture to be drawn

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget cache-view" });
  keepKeys(root);
  const view = openView(model, el);
  const panels = [textPanel, controlPanel, writtenPanel, picturePanel, costPanel].map((panel) => panel(view));
  root.append(...panels.map(({ element }) => element));
  el.append(root);

  view.draw = () => drawAll(panels);
  model.on("change:run", view.draw);
  const ignoreLooks = onNewLooks(root, view.draw);
  return () => {
    view.close();
    model.off("change:run", view.draw);
    ignoreLooks();
  };
}

// ---- What all panels share: the run, the sides shown, the step looked at, and the line to the kernel ----

function openView(model, el) {
  let isPlaying = false;
  let chosen = null; // the step looked at; null: the newest

  const view = {
    line: openLine(model, el, () => {
      if (view.line.error) isPlaying = false;
      if (isPlaying && !view.line.isBusy()) setTimeout(goOn, BREATH);
      view.draw();
    }),
    run: () => model.get("run"),
    sides: Object.keys(SIDES),
    isPlaying: () => isPlaying,
    draw: () => {},
    close: () => {
      isPlaying = false;
      view.line.close();
    },

    // The step looked at, from 0; -1 if there is none yet.
    chosen: () => Math.min(chosen ?? Infinity, view.run().steps.length - 1),

    choose(step) {
      chosen = step === view.run().steps.length - 1 ? null : step;
      view.draw();
    },

    show(sides) {
      view.sides = sides;
      view.draw();
    },

    step() {
      chosen = null;
      view.line.ask({ type: "step", sides: view.sides });
    },

    play() {
      isPlaying = true;
      view.step();
    },

    pause() {
      isPlaying = false;
      view.draw();
    },

    start(text) {
      isPlaying = false;
      chosen = null;
      view.line.ask({ type: "start", text });
    },
  };

  function goOn() {
    if (!isPlaying || view.line.isBusy()) return;
    if (view.run().ended) return view.pause();
    view.step();
  }
  return view;
}

// ---- The prompt ----

function textPanel(view) {
  return promptPanel({
    line: view.line,
    label: "Text to continue",
    action: "Start over",
    text: () => view.run().text,
    run: view.start,
    status: () =>
      `${counted(view.run().n_prompt, "token")} of prompt, ${view.run().steps.length} of ${view.run().n_steps} generated${view.run().ended ? ": the end" : ""}`,
  });
}

// ---- Play, step, and which side ----

function controlPanel(view) {
  const button = (textContent, onclick, className = "") =>
    node("button", { type: "button", textContent, onclick, className });
  const play = button("Play", () => (view.isPlaying() ? view.pause() : view.play()), "play");
  const step = button("Step ▶", view.step, "primary");
  const choices = [
    ["Both", Object.keys(SIDES)],
    ["Without a cache", ["uncached"]],
    ["With a cache", ["cached"]],
  ];
  const modes = choices.map(([name, sides]) =>
    Object.assign(
      button(name, () => view.show(sides)),
      { sides },
    ),
  );
  const element = node(
    "div",
    { className: "controls" },
    play,
    step,
    node("div", { className: "modes", role: "group", ariaLabel: "Sides" }, ...modes),
  );

  const draw = soon(() => {
    play.textContent = view.isPlaying() ? "Pause" : "Play";
    play.disabled = step.disabled = view.run().ended;
    step.disabled ||= view.isPlaying() || view.line.isBusy();
    for (const mode of modes) mode.ariaPressed = String(String(mode.sides) === String(view.sides));
  });
  return { element, draw };
}

// ---- The text so far: what the chosen step read, and the token that it chose ----

function writtenPanel(view) {
  const element = node("p", { className: "written", ariaLabel: "Text so far" });
  const draw = soon(() => {
    const { tokens, n_prompt } = view.run();
    const next = n_prompt + view.chosen();
    element.replaceChildren(
      ...tokens.map((token, position) => {
        const chip = tokenChip(token);
        chip.classList.toggle("own", position >= n_prompt);
        chip.classList.toggle("next", position === next && view.chosen() >= 0);
        chip.classList.toggle("later", position > next);
        return chip;
      }),
    );
  });
  return { element, draw };
}

// ---- Positions × steps ----

function picturePanel(view) {
  const sides = Object.entries(SIDES).map(([side, name]) => {
    const canvas = node("canvas", { role: "img" });
    const figure = node(
      "section",
      { className: "side" },
      node("h3", {}, name, node("span", { className: "muted", textContent: "positions →, steps ↓" })),
      canvas,
    );
    canvas.addEventListener("click", (event) => {
      const step = Math.floor((event.offsetY - GUTTER) / CELL.height);
      if (step >= 0 && step < view.run().steps.length) view.choose(step);
    });
    return { side, canvas, figure };
  });
  const grid = node("div", { className: "sides" }, ...sides.map(({ figure }) => figure));
  const samples = ROLES.flatMap((role) => [sample(role, "computed"), role === "query" ? "" : sample(role, "read")]);
  const legend = node(
    "p",
    { className: "legend" },
    ...samples,
    node("span", { className: "muted", textContent: "No query is kept." }),
  );
  const element = node("div", { className: "picture" }, grid, legend);

  const draw = soon(() => {
    if (grid.clientWidth === 0) return; // not on the page yet, or in a hidden tab
    const { n_prompt, n_steps, steps } = view.run();
    const shown = sides.filter(({ side }) => view.sides.includes(side));
    for (const { side, figure } of sides) figure.hidden = !view.sides.includes(side);
    const n_positions = n_prompt + n_steps - 1;
    const cellIn = (room) => clamp(Math.floor((room - GUTTER - MARGIN) / n_positions), CELL.narrowest, CELL.widest);
    const besides = cellIn((grid.clientWidth - 32) / 2);
    const isStacked = shown.length === 1 || besides < CELL.legible;
    grid.classList.toggle("stacked", isStacked);
    const cell = isStacked ? cellIn(grid.clientWidth) : besides;
    for (const { side, canvas } of shown) {
      drawSteps(canvas, { side, steps, n_positions, n_steps, cell, chosen: view.chosen(), look: lookOf(canvas) });
      const cost = steps[view.chosen()]?.[side];
      canvas.ariaLabel = `${SIDES[side]}, positions by steps. ${cost ? inWords(side, cost) : "No step yet."}`;
    }
  });
  return { element, draw };
}

const sample = (role, what) => node("span", { className: `sample ${role} ${what}`, textContent: `${role} ${what}` });

function drawSteps(canvas, { side, steps, n_positions, n_steps, cell, chosen, look }) {
  const { height } = CELL;
  const ctx = fit(canvas, GUTTER + n_positions * cell + MARGIN, GUTTER + n_steps * height + 2);
  const [left, top] = [(position) => GUTTER + position * cell, (step) => GUTTER + step * height];
  Object.assign(ctx, { font: look.code, fillStyle: look.muted, textBaseline: "middle", textAlign: "center" });
  for (let position = 0; position < n_positions; position += 5)
    ctx.fillText(String(position), left(position + 0.5), GUTTER / 2);
  ctx.textAlign = "right";
  for (let step = 5; step <= n_steps; step += 5) ctx.fillText(String(step), GUTTER - 7, top(step - 0.5));
  Object.assign(ctx, { strokeStyle: look.sunk, lineWidth: 1 });
  ctx.strokeRect(left(0) + 0.5, top(0) + 0.5, n_positions * cell, n_steps * height);
  const pitch = (cell - 3) / 3;
  const width = Math.floor(pitch) - 1;
  steps.forEach((costs, step) => {
    const { n_new, n_past } = costs[side] ?? { n_new: 0, n_past: 0 }; // this side may have been left out
    for (let position = 0; position < n_past + n_new; position++) {
      ROLES.forEach((role, place) => {
        const [x, y] = [left(position) + 2 + Math.round(place * pitch), top(step) + 2];
        Object.assign(ctx, { strokeStyle: look[role], fillStyle: look[role] });
        if (position >= n_past) ctx.fillRect(x, y, width, height - 4);
        else if (role !== "query") ctx.strokeRect(x + 0.5, y + 0.5, width - 1, height - 5);
      });
    }
  });
  if (chosen < 0) return;
  Object.assign(ctx, { strokeStyle: look.ink, lineWidth: 2 });
  ctx.strokeRect(left(0), top(chosen), n_positions * cell + 1, height);
}

// ---- What the chosen step cost ----

const megabytes = (count) => `${short(count / 1e6, 2)} MB`;
const operations = (count) => `${short(count / 1e9, 2)} GFLOP`;
const milliseconds = (time) => `${short(time, 2)} ms`;

const ROWS = [
  ["positions computed", ({ n_new }) => String(n_new)],
  ["positions read from the cache", ({ n_past }) => String(n_past)],
  ["their keys and values", ({ cache_read }) => megabytes(cache_read)],
  ["weights read", ({ weights_read }) => megabytes(weights_read)],
  ["operations", ({ flops }) => operations(flops)],
  ["time, measured here", ({ ms }) => milliseconds(ms)],
  ["cache after the step", ({ cache_size }) => megabytes(cache_size)],
  ["token chosen", ({ chip }) => node("span", { className: "chip", textContent: chip })],
];
/** @type {[name: string, key: string, written: (count: number) => string][]} */
const TOTALS = [
  ["operations up to here", "flops", operations],
  ["time up to here", "ms", milliseconds],
];

function costPanel(view) {
  const slider = node("input", { type: "range", min: 0, ariaLabel: "Step looked at" });
  slider.addEventListener("input", () => view.choose(slider.valueAsNumber));
  const title = node("h3");
  const table = node("table");
  const said = node("div", { className: "said", role: "status" });
  const element = node(
    "section",
    { className: "costs" },
    node("div", {}, node("header", {}, title, slider), table),
    said,
  );

  const draw = soon(() => {
    const { steps } = view.run();
    const chosen = view.chosen();
    const costs = steps[chosen] ?? {};
    title.textContent = chosen < 0 ? "No step yet" : `Step ${chosen + 1} of ${steps.length}`;
    Object.assign(slider, { max: Math.max(0, steps.length - 1), value: chosen, disabled: steps.length < 2 });
    slider.ariaValueText = title.textContent;
    const cells = (value) =>
      view.sides.map((side) => node("td", {}, ...(costs[side] ? [value(costs[side], side)] : ["–"])));
    const row = (name, value) => node("tr", {}, node("th", { scope: "row", textContent: name }), ...cells(value));
    const total = (key, side) => steps.slice(0, chosen + 1).reduce((sum, step) => sum + (step[side]?.[key] ?? 0), 0);
    const head = view.sides.map((side) =>
      node("th", { scope: "col", textContent: side === "cached" ? "with" : "without" }),
    );
    table.replaceChildren(
      node("thead", {}, node("tr", {}, node("td"), ...head)),
      node(
        "tbody",
        {},
        ...ROWS.map(([name, value]) => row(name, value)),
        ...TOTALS.map(([name, key, written]) => row(name, (_, side) => written(total(key, side)))),
      ),
    );
    const lines = view.sides
      .filter((side) => costs[side])
      .map((side) => node("p", { textContent: inWords(side, costs[side]) }));
    said.replaceChildren(
      ...(lines.length
        ? lines
        : [node("p", { className: "muted", textContent: "Step, or play, to let the model write." })]),
    );
  });
  return { element, draw };
}

function inWords(side, { n_new, n_past }) {
  const positions = counted(n_new, "position");
  if (side === "uncached")
    return `Without: nothing is kept from step to step, so query, key and value of all ${positions} are computed.`;
  if (n_past === 0)
    return `With: the cache is empty, so all ${positions} are computed. Keys and values are kept; queries are not, for no later step needs them.`;
  const computed =
    n_new === 1 ? "one position is computed" : `${positions} are computed, for the cache has to catch up`;
  return `With: ${computed}. Its query still meets ${n_past + n_new} keys, of which ${n_past} are read from the cache with their values, one more in every step: attention is cheaper, but not free.`;
}
