// The browser's half of LoraView: the answers with and without the adapter, and below them what it adds to one matrix.

import { clamp, drawAll, keepKeys, node, octets, onNewLooks, soon } from "../shared/base.js";
import { promptPanel } from "../shared/kernel.js";
import { short } from "../shared/numbers.js";
import { choiceRow, openSettings, sliderRow } from "../shared/settings.js";
import { gradient, layout, mapCanvas, numbersOf, signed } from "./maps.js";

const SCALES = Array.from({ length: 21 }, (_, i) => i / 10);
const BYTES = 255 * 3; // of a ramp

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget settings-widget lora-view" });
  keepKeys(root);
  const view = openView(model, el);
  const [prompt, answers, ...matrix] = [textPanel, answerPanel, choicePanel, sumPanel, rankPanel, countPanel].map(
    (panel) => panel(view),
  );
  const [choice, sum, rank, count] = matrix.map(({ element }) => element);
  const below = node("div", { className: "below" }, rank, count);
  root.append(node("section", {}, prompt.element, answers.element), choice, sum, below);
  el.append(root);

  view.draw = soon(() => drawAll([prompt, answers, ...matrix]));
  view.announce = prompt.announce;
  const ignoreLooks = onNewLooks(root, view.draw);
  view.draw();
  return () => {
    view.close();
    ignoreLooks();
  };
}

// ---- What all panels share: the settings, the cell that is looked at, and the colours ----

function openView(model, el) {
  const view = openSettings(model, el, () => view.draw());
  return Object.assign(view, {
    draw: () => {},
    announce: (_words) => {},
    cell: null, // [row, column]

    point(cell) {
      view.cell = cell;
      view.draw();
    },

    // The cell that is looked at, if the present matrix has it.
    shownCell() {
      const [rows, columns] = view.result().cells;
      return view.cell && view.cell[0] < rows && view.cell[1] < columns ? view.cell : null;
    },

    ramp() {
      const isDark = document.body.dataset.jpThemeLight === "false";
      return octets(model.get("ramps")).subarray(isDark ? BYTES : 0, isDark ? 2 * BYTES : BYTES);
    },
  });
}

// ---- The prompt, and the two answers ----

function textPanel(view) {
  return promptPanel({
    line: view.line,
    label: "Prompt",
    action: "Answer",
    text: () => view.settings().prompt,
    run: (text) => view.line.ask({ type: "run", text }),
    status: () => "Always the likeliest token, 40 at most.",
  });
}

function answerPanel(view) {
  const slider = sliderRow(view, {
    name: "scale",
    label: "The update counts",
    values: SCALES,
    say: (scale) => ({ 0: "0 times: the base model", 1: "once: as trained" })[scale] ?? `${scale} times`,
  });
  const [base, scaled] = ["base", "own"].map((className) => {
    const title = node("h3");
    const text = node("p", { className: "text" });
    return { title, text, element: node("div", { className }, title, text) };
  });
  const same = node("p", { className: "muted same" });
  const element = node(
    "div",
    { className: "answers" },
    base.element,
    scaled.element,
    node("div", { className: "scale" }, slider.element, same),
  );

  const draw = () => {
    slider.draw();
    const { scale } = view.settings();
    const [first, second = ""] = view.line.progress?.answers ?? view.result().answers;
    base.title.textContent = "W: the base model";
    scaled.title.textContent = `W + ${scale === 1 ? "" : `${scale} · `}update`;
    base.text.textContent = first;
    scaled.text.textContent = second;
    const isWaiting = view.line.pending("set")?.settings.scale !== undefined && !view.line.progress?.answers;
    scaled.text.classList.toggle("waiting", isWaiting);
    same.textContent = !view.line.isBusy() && first === second ? "The two answers are the same." : "";
  };
  return { element, draw };
}

// ---- Which matrix is looked at ----

function choicePanel(view) {
  const { matrices, layers } = view.result();
  const title = node("h3");
  const row = choiceRow({
    label: "Matrix",
    choices: matrices.map((name) => [name, name]),
    chosen: () => view.settings().matrix,
    choose: (matrix) => view.set({ matrix }),
  });
  const slider = sliderRow(view, {
    name: "layer",
    label: "layer",
    values: Array.from({ length: layers }, (_, layer) => layer),
    say: (layer) => `${layer} of 0 … ${layers - 1}`,
  });
  const element = node(
    "section",
    { className: "choice" },
    title,
    node("div", { className: "controls" }, row.element, slider.element),
  );
  const draw = () => {
    row.draw();
    slider.draw();
    title.textContent = "What is added to a matrix";
  };
  return { element, draw };
}

// ---- W + update = sum ----

const TERMS = [
  { name: "frozen", sign: "", title: "W", note: "frozen" },
  { name: "update", sign: "+", title: "α/r · B A", note: "trained", factors: true },
  { name: "sum", sign: "=", title: "W + α/r · B A", note: "what the model computes with" },
];

function sumPanel(view) {
  const terms = TERMS.map(({ sign, note, ...options }) => {
    const map = termMap(view, { ...options, note: () => note });
    const mark = sign ? [node("b", { className: "sign", textContent: sign })] : [];
    return { ...map, element: node("div", { className: "term" }, ...mark, map.element) };
  });
  const readout = node("p", { className: "readout" });
  const about = node("p", { className: "muted about" });
  const row = node("div", { className: "terms" }, ...terms.map(({ element }) => element));
  const element = node("section", {}, row, readout, about);
  const walker = terms[1].canvas;
  Object.assign(walker, { tabIndex: 0, role: "application" });
  walker.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step && event.key !== "Escape") return;
    event.preventDefault();
    if (!step) return view.point(null);
    const { cells } = view.result();
    const at = view.shownCell();
    view.point(at ? at.map((place, i) => clamp(place + step[i], 0, cells[i] - 1)) : [0, 0]);
    view.announce(inWords(view));
  });

  const draw = () => {
    if (row.clientWidth === 0) return; // not on the page yet, or in a hidden tab
    const { size, abreast, above } = layout(view.result(), row.clientWidth);
    view.size = size;
    drawAll(terms);
    const isLow = [abreast > 1, true, abreast > 2]; // as the update, which stands lower for its factor
    for (const [i, { element }] of terms.entries()) {
      element.style.setProperty("--above", `${isLow[i] ? above : 0}px`);
      element.style.setProperty("--height", `${view.result().cells[0] * size}px`);
    }
    row.style.setProperty("--indent", `${abreast === 2 ? terms[0].element.offsetWidth : 0}px`); // = stands below +
    const { block, change } = view.result();
    readout.textContent = inWords(view) || "Point at a cell, or move to one with the arrow keys.";
    readout.classList.toggle("muted", !view.shownCell());
    const cells =
      block === 1
        ? "Each cell is one number."
        : `Each cell is the mean of ${block} × ${block} numbers, so that cells of W and of the update add up to those of the sum.`;
    const relative = `The update is ${percent(change)} as large as W (Frobenius norm)`;
    about.textContent = `${cells} ${relative}${change < 0.2 ? ", which is why the sum looks like W." : "."}`;
  };
  return { element, draw };
}

// One map with its name and its legend; at the same scale where the limits are the same.
function termMap(view, { name, title, note, factors = false }) {
  const map = mapCanvas({ name, factors, point: view.point });
  const said = node("span", { className: "muted" });
  const ramp = node("span", { className: "ramp" });
  const [low, high] = [node("span"), node("span")];
  const small = node("p", { className: "muted" });
  const caption = node(
    "figcaption",
    {},
    node("b", { textContent: title }),
    said,
    node("div", { className: "legend" }, low, ramp, high),
    ...(factors ? [small] : []),
  );
  const element = node("figure", { className: factors ? "factors" : "" }, map.canvas, caption);

  const draw = () => {
    const result = view.result();
    const { matrix, layer } = view.settings();
    const [rows, columns] = result.shape.map((n) => n.toLocaleString("en"));
    said.textContent = `${rows}\u00a0×\u00a0${columns}, ${note()}`;
    map.draw(result, view.ramp(), view.size, view.shownCell());
    map.canvas.ariaLabel = `${title}, ${note()}; ${matrix} of layer ${layer}, ${rows} by ${columns}, from ${signed(-result.limits[name])} to ${signed(result.limits[name])}${factors ? ". Arrow keys choose a cell" : ""}`;
    ramp.style.background = gradient(view.ramp());
    low.textContent = signed(-result.limits[name]);
    high.textContent = signed(result.limits[name]);
    small.textContent = `A within ±${signed(result.limits.a)}, B within ±${signed(result.limits.b)}`;
  };
  return { element, canvas: map.canvas, draw };
}

function inWords(view) {
  const cell = view.shownCell();
  if (!cell) return "";
  const result = view.result();
  const { block, shape, cells } = result;
  const [rows, columns] = cell.map((at, i) => range(at * block, Math.min((at + 1) * block, shape[i]) - 1));
  const value = (name) => signed(numbersOf(result, name)[cell[0] * cells[1] + cell[1]]);
  return `Row ${rows}, column ${columns}: W ${value("frozen")}, update ${value("update")}, sum ${value("sum")}`;
}

const range = (first, last) => (first === last ? String(first) : `${first}–${last}`);

// ---- How many directions the update needs ----

function rankPanel(view) {
  const { r } = view.result();
  const slider = sliderRow(view, {
    name: "rank",
    label: "rank kept",
    values: Array.from({ length: r }, (_, i) => i + 1),
    say: (rank) => `${rank} of ${r}`,
  });
  const map = termMap(view, {
    name: "approximation",
    title: "Best approximation",
    note: () => `rank ${view.settings().rank}`,
  });
  const top = node("span");
  const bars = node("ol", { ariaLabel: "Singular values of the update" });
  const said = node("p", { className: "said", role: "status" });
  const note = node("p", { className: "muted" });
  const values = node(
    "div",
    { className: "values" },
    node("p", { className: "muted axis" }, "singular values, up to ", top),
    bars,
    slider.element,
    said,
    note,
  );
  const title = node("h3", { textContent: "How many directions the update needs" });
  const element = node(
    "section",
    { className: "rank" },
    title,
    node("div", { className: "kept" }, values, map.element),
  );
  values.style.setProperty("--r", String(r));

  const draw = () => {
    if (!view.size) return;
    slider.draw();
    map.draw();
    const { singular, kept, shape } = view.result();
    const { rank } = view.settings();
    top.textContent = short(singular[0]);
    bars.replaceChildren(
      ...singular.map((value, i) => {
        const bar = node("li", { title: `${i + 1}: ${short(value)}`, ariaLabel: short(value) });
        bar.className = i < rank ? "in" : "out";
        bar.style.height = `${(100 * value) / (singular[0] || 1)}%`;
        return bar;
      }),
    );
    const [out, in_] = shape;
    said.textContent =
      kept === null
        ? "The update is zero: B begins as zeros, and nothing has been trained yet."
        : `Rank ${rank} keeps ${percent(kept)} of the update: that share of its squared Frobenius norm.`;
    note.textContent =
      rank < r
        ? `The best approximation of rank ${rank} (truncated SVD): ${(rank * (out + in_)).toLocaleString("en")} numbers would hold it. This is a picture only: the model and its answers keep all ${r} directions.`
        : `All ${r} directions: this is the update itself.`;
  };
  return { element, draw };
}

// ---- How much is trained ----

function countPanel(view) {
  const table = node("table");
  const formula = node("p", { className: "muted" });
  const element = node(
    "section",
    { className: "count" },
    node("h3", { textContent: "How much is trained" }),
    table,
    formula,
  );

  const draw = () => {
    const { r, shape, model, alpha } = view.result();
    const [out, in_] = shape;
    const head = ["", "trained", "frozen", "share"].map((textContent) =>
      node(textContent ? "th" : "td", textContent ? { scope: "col", textContent } : {}),
    );
    const row = (name, trained, frozen) =>
      node(
        "tr",
        {},
        node("th", { scope: "row", textContent: name }),
        ...[trained.toLocaleString("en"), frozen.toLocaleString("en"), percent(trained / frozen)].map((textContent) =>
          node("td", { textContent }),
        ),
      );
    table.replaceChildren(
      node("thead", {}, node("tr", {}, ...head)),
      node(
        "tbody",
        {},
        row(`this ${view.settings().matrix}`, r * (in_ + out), in_ * out),
        row("the model", model[0], model[1]),
      ),
    );
    const [n, m] = [in_, out].map((size) => size.toLocaleString("en"));
    formula.replaceChildren(
      equation(`r · (in + out) = ${r} · (${n} + ${m})`),
      " numbers beside ",
      equation(`in · out = ${n} · ${m}.`),
      " ",
      equation(`α = ${short(alpha)},`),
      " so ",
      equation(`α/r = ${short(alpha / r)}.`),
    );
  };
  return { element, draw };
}

// One that a line does not end in.
const equation = (textContent) => node("span", { className: "equation", textContent });

// "3.2 %"; what is not all is never written as all.
function percent(share) {
  if (share < 1 && share >= 0.9995) return "more than 99.9 %";
  return `${short(100 * share, share >= 0.1 ? 3 : 2)} %`;
}
