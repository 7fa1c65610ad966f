// The browser's half of AttentionStepper: the matrices where a product by hand would put them, and one step lit up.
//
//            kᵀ            v         Every number of a result stands in the row of the matrix at its left
//   q        scores   →    output    and in the column of the matrix above it.

import { clamp, drawAll, keepKeys, node, octets, soon } from "../shared/base.js";
import { attend, column, isDone, STAGES, SUM, short, timeline } from "./steps.js";
import { tokenHeader, workPanel } from "./work.js";

const PACE = 1000; // ms a step while it plays
const RANGE = 1000; // no number is larger, in either direction

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget attention-stepper" });
  keepKeys(root);
  const stepper = openStepper(model);
  const panels = [formulaPanel, controlPanel, picturePanel, workPanel].map((panel) => panel(stepper));
  const [formula, controls, picture, work] = panels.map(({ element }) => element);
  root.append(formula, controls, node("div", { className: "bench" }, picture, work));
  root.addEventListener("keydown", (event) => press(stepper, event));
  el.append(root);

  const draw = soon(() => drawAll(panels));
  stepper.draw = draw;
  const changes = "change:numbers change:step change:chips";
  model.on(changes, draw);
  draw();
  return () => {
    stepper.pause();
    model.off(changes, draw);
  };
}

// ---- What all panels share: the numbers, the step, and the clock ----

function openStepper(model) {
  let clock = null;

  const stepper = {
    numbers: () => model.get("numbers"),
    chips: () => model.get("chips"),
    steps: () => timeline(model.get("numbers")),
    step: () => clamp(model.get("step"), 0, stepper.steps().length - 1),
    now: () => stepper.steps()[stepper.step()],
    isPlaying: () => clock !== null,
    error: "",
    draw: () => {},
    rest: () => {},

    go(step) {
      model.set("step", clamp(step, 0, stepper.steps().length - 1));
      model.save_changes();
    },

    // To the first step that does this cell of this stage.
    goTo(stage, row = 0, column = 0) {
      stepper.go(stepper.steps().findIndex((step) => step.stage === stage && isDone(step, row, column)));
    },

    play() {
      if (stepper.step() === stepper.steps().length - 1) stepper.go(0);
      clock = setInterval(() => {
        stepper.go(stepper.step() + 1);
        if (stepper.step() === stepper.steps().length - 1) stepper.pause();
      }, PACE);
      stepper.draw();
    },

    pause() {
      clearInterval(clock);
      clock = null;
      stepper.draw();
    },

    set(name, row, column, value) {
      const numbers = structuredClone(model.get("numbers"));
      numbers[name][row][column] = value;
      stepper.error = "";
      model.set("numbers", numbers);
      model.save_changes();
    },

    ramp(weight) {
      const bytes = octets(model.get("ramps"));
      const start = 3 * Math.round(255 * weight);
      return [0, 768].map((theme) => `rgb(${bytes.subarray(theme + start, theme + start + 3)})`);
    },
  };
  return stepper;
}

function press(stepper, event) {
  const { target, key } = event;
  if (target.type === "text" || event.ctrlKey || event.metaKey || event.altKey) return;
  const isSlider = target.type === "range"; // it moves by itself
  const act = {
    ArrowLeft: !isSlider && (() => stepper.go(stepper.step() - 1)),
    ArrowRight: !isSlider && (() => stepper.go(stepper.step() + 1)),
    Home: !isSlider && (() => stepper.go(0)),
    End: !isSlider && (() => stepper.go(Infinity)),
    " ": target.tagName !== "BUTTON" && (() => (stepper.isPlaying() ? stepper.pause() : stepper.play())),
  }[key];
  const stage = Number(key) - 1;
  if (!act && !STAGES[stage]) return;
  event.preventDefault();
  if (act) act();
  else stepper.goTo(stage);
}

// ---- The formula, its present part emphasised ----

function formulaPanel(stepper) {
  const parts = []; // {stage, element}: what is emphasised at which stage
  const part = (stage, ...content) => {
    const element = node("span", { className: "part" }, ...content);
    parts.push({ stage, element });
    return element;
  };
  const symbol = (name, text) => node("i", { className: name, textContent: text });
  const fraction = node(
    "span",
    { className: "fraction" },
    part(0, symbol("query", "q"), " ", symbol("key", "kᵀ")),
    part(1, "√", node("i", { textContent: "d" })),
  );
  const element = node(
    "div",
    { className: "formula", role: "math", ariaLabel: "softmax of (q k transposed, over root d, plus mask), times v" },
    part(3, "softmax ("),
    fraction,
    part(2, "+ mask"),
    part(3, ")"),
    part(4, symbol("value", "v")),
  );

  function draw() {
    const { stage } = stepper.now();
    for (const part of parts) part.element.classList.toggle("now", part.stage === stage);
  }
  return { element, draw };
}

// ---- Stages, steps, and the slider ----

function controlPanel(stepper) {
  const button = (textContent, onclick, className = "") =>
    node("button", { type: "button", textContent, onclick, className });
  const stages = STAGES.map(({ name }, stage) => button(`${stage + 1}  ${name}`, () => stepper.goTo(stage)));
  const back = button("◀ Back", () => stepper.go(stepper.step() - 1));
  const play = button("Play", () => (stepper.isPlaying() ? stepper.pause() : stepper.play()), "play");
  const next = button("Step ▶", () => stepper.go(stepper.step() + 1), "primary");
  const slider = node("input", { type: "range", min: 0, ariaLabel: "Step" });
  slider.addEventListener("input", () => stepper.go(slider.valueAsNumber));
  stepper.rest = () => slider.focus({ preventScroll: true });
  const place = node("span", { className: "muted place" });
  const element = node(
    "div",
    { className: "controls" },
    node("div", { className: "modes stages", role: "group", ariaLabel: "Stage" }, ...stages),
    node("div", { className: "steps" }, back, play, next, slider, place),
  );

  function draw() {
    const [step, last] = [stepper.step(), stepper.steps().length - 1];
    for (const [stage, button] of stages.entries()) button.ariaPressed = String(stage === stepper.now().stage);
    back.disabled = step === 0;
    next.disabled = step === last;
    play.textContent = stepper.isPlaying() ? "Pause" : "Play";
    place.textContent = `step ${step + 1} of ${last + 1}`;
    Object.assign(slider, { max: last, value: step });
    slider.ariaValueText = `${place.textContent}, ${STAGES[stepper.now().stage].name}`;
  }
  return { element, draw };
}

// ---- The matrices ----

function picturePanel(stepper) {
  const { q, k, v, mask } = stepper.numbers();
  const chips = stepper.chips();
  const q_ = inputs("q", "query", q.length, q[0].length);
  const k_ = inputs("k", "key", q[0].length, k.length, true);
  const v_ = inputs("v", "value", v.length, v[0].length);
  const scores = results("scores", q.length, k.length, (row, column) =>
    stepper.goTo(Math.min(stepper.now().stage, SUM - 1), row, column),
  );
  const output = results("output", q.length, v[0].length, (row, column) => stepper.goTo(SUM, row, column));
  const switches = matrix("mask", q.length, k.length, (row, column) => {
    const onclick = () => stepper.set("mask", row, column, !stepper.numbers().mask[row][column]);
    return node("button", { type: "button", onclick });
  });
  label(q_, "q", "query × d", `${q.length} × ${q[0].length}`);
  label(k_, "kᵀ", "d × key", `${q[0].length} × ${k.length}`);
  label(v_, "v", "key × d_value", `${v.length} × ${v[0].length}`);
  label(switches, "mask", "query × key", `${mask.length} × ${mask[0].length}`);
  const scoreName = label(scores, "", "query × key", `${q.length} × ${k.length}`);
  label(output, "output", "query × d_value", `${q.length} × ${v[0].length}`);
  for (const [i, row] of q_.rows.entries()) row.prepend(tokenHeader("row", chips.query[i]));
  for (const [i, row] of v_.rows.entries()) row.prepend(tokenHeader("row", chips.key[i]));
  const heads = chips.key.map((chip) => tokenHeader("col", chip));
  k_.table.prepend(node("thead", {}, node("tr", {}, ...heads)));
  const error = node("p", { className: "error", role: "alert" });
  const grid = node(
    "div",
    { className: "matrices" },
    ...[switches, k_, v_, q_, scores, output].map(({ table }) => table),
  );
  const element = node("div", { className: "picture" }, grid, error);

  function inputs(name, role, rows, columns, isTurned = false) {
    return matrix(`${name} ${role}`, rows, columns, (row, column) => {
      const [i, c] = isTurned ? [column, row] : [row, column];
      const input = node("input", {
        type: "text",
        inputMode: "decimal",
        autocomplete: "off",
        ariaLabel: `${name}, ${role === "query" ? "query" : "key"} ${i}, number ${c}`,
      });
      const value = () => stepper.numbers()[name][i][c];
      input.addEventListener("focus", () => {
        input.value = written(value());
        input.select();
      });
      input.addEventListener("input", () => {
        const number = parse(input.value);
        if (number !== null) stepper.set(name, i, c, number);
      });
      input.addEventListener("change", () => {
        if (parse(input.value) !== null) return;
        stepper.error = `“${input.value}” is not a number from −${RANGE} to ${RANGE}: ${written(value())} stays.`;
        input.value = written(value());
        stepper.draw();
      });
      input.addEventListener("blur", () => stepper.draw());
      return input;
    });
  }

  function draw() {
    const numbers = stepper.numbers();
    const attended = attend(numbers);
    const now = stepper.now();
    const isSum = now.stage === SUM;
    for (const [part, matrix] of [
      [q_, numbers.q],
      [k_, numbers.k[0].map((_, c) => column(numbers.k, c))],
      [v_, numbers.v],
    ]) {
      part.each((input, row, column) => {
        if (!input.matches(":focus")) input.value = short(matrix[row][column]);
        input.title = written(matrix[row][column]);
      });
    }
    q_.light((row) => now.stage === 0 && row === now.row);
    k_.light((_, column) => now.stage === 0 && column === now.column);
    v_.light((_, column) => isSum && column === now.column);
    switches.light((row) => now.stage === 2 && row === now.row);
    scores.light((row, column) => row === now.row && (now.stage === 0 ? column === now.column : true));
    output.light((row, column) => isSum && row === now.row && column === now.column);

    switches.each((button, row, column) => {
      const isSeen = numbers.mask[row][column];
      button.textContent = isSeen ? "✓" : "−∞";
      button.ariaPressed = String(isSeen);
      button.ariaLabel = `query ${row} ${chips.query[row]} may attend to key ${column} ${chips.key[column]}`;
    });
    scores.each((cell, row, column) => {
      const stage = isSum ? SUM - 1 : isDone(now, row, column) ? now.stage : now.stage - 1;
      const value = stage < 0 ? null : attended[STAGES[stage].result][row][column];
      fill(cell, value, stage === SUM - 1 ? stepper.ramp(value) : null);
    });
    output.each((cell, row, column) =>
      fill(cell, isSum && isDone(now, row, column) ? attended.output[row][column] : null),
    );
    scoreName.textContent = STAGES[now.stage].symbol;
    scores.table.classList.toggle("by-cell", now.stage === 0);
    error.textContent = stepper.error;
  }

  function results(name, rows, columns, choose) {
    return matrix(name, rows, columns, (row, column) => {
      const onclick = () => {
        choose(row, column);
        stepper.rest();
      };
      return node("span", { onclick });
    });
  }
  return { element, draw };
}

// A table of rows × columns cells, each filled by `content(row, column)`.
function matrix(className, rows, columns, content) {
  const cells = Array.from({ length: rows }, (_, row) =>
    Array.from({ length: columns }, (_, column) => content(row, column)),
  );
  const lines = cells.map((row) => node("tr", {}, ...row.map((cell) => node("td", {}, cell))));
  const table = node("table", { className }, node("tbody", {}, ...lines));
  function each(act) {
    for (const [row, line] of cells.entries()) {
      for (const [column, cell] of line.entries()) act(cell, row, column);
    }
  }
  const light = (isLit) => each((cell, row, column) => cell.parentElement.classList.toggle("lit", isLit(row, column)));
  return { table, rows: lines, each, light };
}

function label({ table }, name, dimensions, sizes) {
  const title = node("b", { textContent: name });
  table.prepend(node("caption", {}, title, ` ${sizes}`, node("span", { className: "muted", textContent: dimensions })));
  return title;
}

// Write a result into its cell, or leave it empty; a weight has the ramp's colour of either theme.
function fill(cell, value, ramp = null) {
  cell.textContent = value === null ? "" : short(value);
  cell.title = value === null ? "" : written(value);
  const box = cell.parentElement;
  box.classList.toggle("weight", ramp !== null);
  box.classList.toggle("heavy", ramp !== null && value > 0.45);
  box.style.setProperty("--on-light", ramp?.[0] ?? "");
  box.style.setProperty("--on-dark", ramp?.[1] ?? "");
}

// A number in full, as far as it is worth reading: six significant digits.
const written = (number) => (number === -Infinity ? "−∞" : String(Number(number.toPrecision(6))).replaceAll("-", "−"));

function parse(text) {
  const number = Number(text.trim().replace("−", "-"));
  return text.trim() !== "" && Math.abs(number) <= RANGE ? number : null;
}
