// The browser's half of LogitLens. The kernel's half says what `result` and a column hold; here they are drawn and driven.
// A depth is 0 for the embedding and i + 1 for the stream after layer i.

import { clamp, drawAll, drawing, keepKeys, node, octets, onNewLooks, soon, tokenChip } from "../shared/base.js";
import { openLine, promptPanel } from "../shared/kernel.js";
import { counted } from "../shared/numbers.js";
import { oddsChart, tint, tintLegend, twoDigits } from "../shared/odds.js";

const COLUMN = { smallest: 84, largest: 124, header: 110 }; // CSS pixels
const CURVE = { width: 330, height: 190, left: 34, right: 14, top: 10, bottom: 44 }; // CSS pixels

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget logit-lens" });
  keepKeys(root);
  const lens = openLens(model, el);
  const panels = [textPanel, tablePanel, cellPanel].map((panel) => panel(lens));
  root.append(node("div", { className: "panels" }, ...panels.map((panel) => panel.element)));
  el.append(root);

  lens.draw = () => drawAll(panels);
  lens.announce = panels[0].announce;
  const changes = "change:result change:text change:pinned";
  model.on(changes, lens.draw);
  const ignoreLooks = onNewLooks(root, lens.draw);
  return () => {
    lens.close();
    model.off(changes, lens.draw);
    ignoreLooks();
  };
}

// ---- What the panels share: the cell that is looked at, the columns, and the line to the kernel ----

function openLens(model, el) {
  const columns = new Map(); // position -> what was fetched when it was first looked at
  let fetching = null;
  let grid = null; // the likeliest tokens and their probabilities, read from `result` once

  const lens = {
    line: openLine(model, el, () => lens.draw()),
    text: () => model.get("text"),
    pinned: () => model.get("pinned"),
    tokens: () => model.get("result").tokens,
    layers: () => model.get("result").layers,
    chosen: null, // {depth, position}: where the keyboard is
    pointed: null, // {depth, position}: where the pointer is
    draw: () => {},
    announce: (_words) => {},
    run: (text) => lens.line.ask({ type: "run", text }),

    // The likeliest token at a cell and its probability.
    likeliest({ depth, position }) {
      grid ??= readGrid(model.get("result"));
      const { ids, probabilities, vocabulary } = grid;
      const index = depth * lens.tokens().length + position;
      return { ...vocabulary[ids[index]], now: probabilities[index] };
    },

    // What the whole model predicts at a position.
    answer: (position) => lens.likeliest({ depth: lens.layers(), position }),

    // The cell whose tokens are shown; and the position whose way is: the pinned one, or else that cell's.
    shown: () => lens.pointed ?? lens.chosen,
    followed: () => lens.pinned() ?? lens.shown().position,

    pin(position) {
      model.set("pinned", lens.pinned() === position ? null : position);
      model.save_changes();
      lens.announce(`position ${position} ${lens.pinned() === position ? "pinned" : "no longer pinned"}`);
    },

    // A position in full, or null while it is on its way.
    column(position) {
      if (!columns.has(position) && fetching === null && !lens.line.isGone()) {
        fetching = position;
        model.send({ type: "column", position });
      }
      return columns.get(position) ?? null;
    },

    close() {
      lens.line.close();
      model.off("msg:custom", receive);
      model.off("change:result", forget);
    },
  };

  function receive(message, buffers) {
    if (message.type !== "column") return;
    columns.set(message.position, readColumn(message.vocabulary, buffers));
    fetching = null;
    lens.draw();
  }

  function forget() {
    columns.clear();
    fetching = grid = lens.pointed = null;
    lens.chosen = { depth: lens.layers(), position: lens.tokens().length - 1 };
  }

  forget();
  model.on("msg:custom", receive);
  model.on("change:result", forget);
  return lens;
}

function numbers(view, Type) {
  return new Type(octets(view).slice().buffer); // copied, because a view into a message need not be aligned
}

function readGrid({ ids, probabilities, vocabulary }) {
  return { ids: numbers(ids, Int32Array), probabilities: numbers(probabilities, Float32Array), vocabulary };
}

function readColumn(vocabulary, buffers) {
  const [ids, probabilities, curves] = [Int32Array, Float32Array, Float32Array].map((Type, i) =>
    numbers(buffers[i], Type),
  );
  const depths = curves.length / 5;
  const top = ids.length / depths;
  const [entropy, answer, answerRank, actual, actualRank] = Array.from({ length: 5 }, (_, i) =>
    curves.subarray(i * depths, (i + 1) * depths),
  );
  const tokensAt = (depth) =>
    Array.from({ length: top }, (_, i) => ({
      ...vocabulary[ids[depth * top + i]],
      now: probabilities[depth * top + i],
    }));
  return { tokensAt, entropy, answer, answerRank, actual, actualRank };
}

function textPanel(lens) {
  const status = () => `${counted(lens.layers(), "layer")}, ${counted(lens.tokens().length, "token")}`;
  return promptPanel({ line: lens.line, text: lens.text, label: "Text for the model", run: lens.run, status });
}

const layerName = (depth) => (depth === 0 ? "embedding" : String(depth - 1));
const placeName = (depth) => (depth === 0 ? "the embedding" : `after layer ${depth - 1}`);

// ---- The likeliest token of every layer and position, layer 0 at the bottom ----

function tablePanel(lens) {
  const table = node("table", {
    role: "grid",
    ariaLabel: "Likeliest next token by layer and position, layer 0 at the bottom",
  });
  const stage = node("div", { className: "stage" }, table);
  const legend = tintLegend("probability");
  legend.append(node("b", { textContent: "bold" }), "the model’s answer already");
  const hint = node("p", {
    className: "muted",
    textContent:
      "Arrow keys choose a cell; click or Enter pins its position. Only the last layer was trained to be read this way: what an early layer holds may lie in directions that the unembedding does not look at.",
  });
  const element = node(
    "section",
    { className: "table" },
    node("h3", { textContent: "Likeliest next token after each layer" }),
    stage,
    legend,
    hint,
  );
  let cells = []; // [depth][position]
  let inputs = []; // the header cells of the positions
  let rows = []; // the header cells of the depths
  let drawn = null; // the tokens that the table was built for

  function build() {
    const tokens = lens.tokens();
    drawn = tokens;
    cells = Array.from({ length: lens.layers() + 1 }, (_, depth) =>
      tokens.map((_, position) => cell({ depth, position })),
    );
    rows = cells.map((_, depth) => node("th", { scope: "row", textContent: layerName(depth) }));
    inputs = tokens.map((token, position) =>
      node("th", { scope: "col" }, tokenChip(token), node("span", { className: "muted", textContent: position })),
    );
    const body = cells.map((row, depth) => node("tr", {}, rows[depth], ...row)).reverse();
    const corner = node("th", { className: "corner", textContent: "input" });
    table.replaceChildren(
      node("thead", {}, node("tr", {}, node("th", { className: "corner", textContent: "after layer" }))),
      node("tbody", {}, ...body),
      node("tfoot", {}, node("tr", {}, corner, ...inputs)),
    );
  }

  function cell({ depth, position }) {
    const { chip, piece, id, now } = lens.likeliest({ depth, position });
    const element = node("td", { role: "gridcell", textContent: chip, tabIndex: -1 });
    element.ariaLabel = `${placeName(depth)}, position ${position}: ${JSON.stringify(piece)} ${twoDigits(now)}`;
    Object.assign(element.dataset, { layer: depth, position });
    element.classList.toggle("answer", id === lens.answer(position).id);
    tint(element, now);
    return element;
  }

  function mark(className, elements) {
    for (const element of elements) element.classList.add(className);
  }

  const at = (element) => ({ depth: Number(element.dataset.layer), position: Number(element.dataset.position) });

  function go(place) {
    lens.chosen = place;
    lens.pointed = null;
    cells[place.depth][place.position].focus();
    lens.draw();
  }

  const cellOf = (event) => event.target.closest("[role=gridcell]");

  table.addEventListener("pointerover", (event) => {
    const target = cellOf(event);
    lens.pointed = target && at(target);
    lens.draw();
  });
  table.addEventListener("pointerleave", () => {
    lens.pointed = null;
    lens.draw();
  });
  table.addEventListener("click", (event) => {
    const target = cellOf(event);
    if (!target) return;
    go(at(target));
    lens.pin(lens.chosen.position);
  });
  table.addEventListener("keydown", (event) => {
    const { depth, position } = lens.chosen;
    const last = { depth: lens.layers(), position: lens.tokens().length - 1 };
    const move = {
      ArrowUp: [depth + 1, position],
      ArrowDown: [depth - 1, position],
      ArrowRight: [depth, position + 1],
      ArrowLeft: [depth, position - 1],
      Home: [depth, 0],
      End: [depth, last.position],
      PageUp: [last.depth, position],
      PageDown: [0, position],
    }[event.key];
    if (!move && !["Enter", " ", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (move) return go({ depth: clamp(move[0], 0, last.depth), position: clamp(move[1], 0, last.position) });
    if (event.key !== "Escape") lens.pin(position);
    else if (lens.pinned() !== null) lens.pin(lens.pinned());
  });

  const draw = soon(() => {
    if (stage.clientWidth === 0) return; // not on the page yet, or in a hidden tab
    const isNew = drawn !== lens.tokens();
    if (isNew) build();
    const width = Math.floor((stage.clientWidth - COLUMN.header) / drawn.length);
    table.style.setProperty("--column", `${clamp(width, COLUMN.smallest, COLUMN.largest)}px`);
    if (isNew) stage.scrollLeft = stage.scrollWidth; // to the chosen cell
    const { chosen } = lens;
    const shown = lens.shown();
    for (const marked of table.querySelectorAll(".pinned, .shown, [tabindex='0']")) {
      marked.classList.remove("pinned", "shown");
      if (marked.role === "gridcell") marked.setAttribute("tabindex", "-1");
    }
    cells[chosen.depth][chosen.position].tabIndex = 0;
    mark("shown", [cells[shown.depth][shown.position], rows[shown.depth], inputs[shown.position]]);
    const pinned = lens.pinned();
    if (pinned !== null) mark("pinned", [...cells.map((row) => row[pinned]), inputs[pinned]]);
  });
  return { element, draw };
}

// ---- One cell's likeliest tokens, and the way of one position through the layers ----

function cellPanel(lens) {
  const describe = ({ piece, now }) => `${JSON.stringify(piece)}: ${twoDigits(now)}`;
  const odds = oddsChart({ describe });
  const title = node("h3");
  const place = node("p", { className: "place" });
  const wayTitle = node("h3");
  const curve = drawing("svg", { viewBox: `0 0 ${CURVE.width} ${CURVE.height}`, role: "img" });
  const series = node("div", { className: "series" });
  const element = node(
    "section",
    { className: "cell" },
    node("div", {}, title, place, odds.element),
    node("div", {}, wayTitle, curve, series),
  );

  const draw = soon(() => {
    const { depth, position } = lens.shown();
    const tokens = lens.tokens();
    title.textContent = depth === 0 ? "Embedding" : `After layer ${depth - 1}`;
    const column = lens.column(position);
    odds.show(column ? column.tokensAt(depth) : [lens.likeliest({ depth, position })]);
    const entropy = column ? `entropy ${column.entropy[depth].toFixed(1)} bits` : "fetching …";
    place.replaceChildren("position ", String(position), " ", tokenChip(tokens[position]), " · ", entropy);

    const followed = lens.followed();
    const way = lens.column(followed);
    const isPinned = lens.pinned() === followed;
    wayTitle.replaceChildren(
      `Position ${followed} by layer`,
      node("span", { className: "muted", textContent: isPinned ? " · pinned" : "" }),
    );
    curve.replaceChildren(...(way ? drawWay(way, depth, followed < tokens.length - 1) : []));
    const answer = lens.answer(followed);
    const actual = tokens[followed + 1];
    curve.setAttribute(
      "aria-label",
      `Probability after each layer of the model's answer ${JSON.stringify(answer.piece)}${actual ? ` and of ${JSON.stringify(actual.piece)}, which comes next` : ""}`,
    );
    const values = (probabilities, ranks) =>
      way ? `${twoDigits(probabilities[depth])}, rank ${ranks[depth].toLocaleString("en")}` : "";
    series.replaceChildren(
      sample("answer", "the model’s answer", answer, way && values(way.answer, way.answerRank)),
      ...(actual
        ? [sample("actual", "comes next in the text", actual, way && values(way.actual, way.actualRank))]
        : []),
    );
  });
  return { element, draw };
}

// One line of the curve's legend: what it is, the token, and its probability and rank at the depth that is looked at.
function sample(kind, name, token, value) {
  return node(
    "div",
    { className: kind },
    node("span", { className: "muted", textContent: name }),
    node("span", {}, tokenChip(token), " ", node("b", { textContent: value ?? "" })),
  );
}

// The curve of a position: probability over depth, and the depth that is looked at.
function drawWay(way, depth, hasActual) {
  const { width, height, left, right, top, bottom } = CURVE;
  const last = way.answer.length - 1;
  const x = (d) => left + (d / last) * (width - left - right);
  const y = (p) => height - bottom - p * (height - top - bottom);
  const path = (probabilities) =>
    [...probabilities].map((p, d) => `${d ? "L" : "M"}${x(d).toFixed(1)} ${y(p).toFixed(1)}`).join("");
  const text = (words, at, anchor) => drawing("text", { x: at[0], y: at[1], "text-anchor": anchor }, words);
  const step = Math.max(1, Math.ceil((last - 1) / 3 / 5) * 5);
  const ticks = Array.from({ length: last }, (_, layer) => layer).filter((layer) =>
    last < 6 ? true : layer % step === 0,
  );
  return [
    ...[0, 0.5, 1].flatMap((p) => [
      drawing("line", { class: "grid", x1: left, x2: width - right, y1: y(p), y2: y(p) }),
      text(String(p), [left - 7, y(p) + 5], "end"),
    ]),
    ...ticks.map((layer) => text(String(layer), [x(layer + 1), height - bottom + 20], "middle")),
    text("after layer", [(left + width - right) / 2, height - 6], "middle"),
    drawing("line", { class: "here", x1: x(depth), x2: x(depth), y1: y(0), y2: y(1) }),
    ...(hasActual ? [drawing("path", { class: "actual", d: path(way.actual) })] : []),
    drawing("path", { class: "answer", d: path(way.answer) }),
    drawing("circle", { class: "answer", cx: x(depth), cy: y(way.answer[depth]), r: 4.5 }),
  ];
}
