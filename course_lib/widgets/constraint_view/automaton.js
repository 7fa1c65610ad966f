// An automaton as a picture: states are circles, doubled where a text may end; layout.py says in which column and row.

import { drawing } from "../shared/base.js";

const STATE = { radius: 20, row: 62 }; // CSS pixels: of a circle, and from one row to the next
const COLUMN = { narrowest: 84, widest: 190, letter: 8.9, margin: 76 }; // from one to the next: as wide as the labels need
const LONGEST_LABEL = 15; // characters
const EDGE = { start: 46, top: 34, bottom: 14, loop: 46, bend: 30 }; // around the states, and of curves

/**
 * @typedef {{ id: number, column: number, row: number, accepting: boolean, hidden: number }} State
 * @typedef {{ source: number, target: number, label: string }} Edge
 * @typedef {{ states: State[], edges: Edge[], n_states: number, is_whole: boolean }} Automaton
 */

/**
 * Draw it; `mark` then shows where a text is in it, and the way of a token's bytes.
 * @param {Automaton} automaton
 */
export function automatonPicture({ states, edges, is_whole }) {
  const lefts = columnsOf(states, edges);
  const rows = states.map(({ row }) => row);
  const top = EDGE.top + (edges.some(({ source, target }) => source === target) ? EDGE.loop : 0);
  const highest = Math.min(...rows);
  const places = new Map(
    states.map(({ id, column, row }) => [id, { x: lefts[column], y: top + (row - highest) * STATE.row, column }]),
  );
  const bottoms = new Map(); // of each column, the lowest state
  for (const { x, y, column } of places.values())
    bottoms.set(column, { x, y: Math.max(y, bottoms.get(column)?.y ?? 0) });
  const drawn = edges.map((edge) => ({ ...edge, ...edgeOf(places, bottoms, edge, edges) }));
  const circles = states.map((state) => ({ id: state.id, element: circleOf(state, places.get(state.id)) }));
  const depth = Math.max(
    ...drawn.map(({ lowest }) => lowest),
    ...[...bottoms.values()].map(({ y }) => y + STATE.radius),
  );
  const width = Math.max(Math.max(...lefts) + EDGE.start, ...drawn.map(({ rightmost }) => rightmost));
  const height = depth + EDGE.bottom;

  const svg = drawing(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    ...drawn.map(({ element }) => element),
    ...(is_whole ? [startOf(places.get(0))] : []),
    ...drawn.map(({ text }) => text), // above all lines
    ...circles.map(({ element }) => element),
  );

  /**
   * @param {{ state: number, landing: Set<number>, way: number[] }} marks the state that the text is in, those that the tokens
   *   shown lead to, and those that one token's bytes lead through
   */
  function mark({ state, landing, way }) {
    const steps = new Set(way.slice(1).map((to, i) => `${way[i]} ${to}`));
    const after = new Set(edges.filter(({ source }) => source === state).map(({ target }) => target));
    for (const { id, element } of circles) {
      element.classList.toggle("here", id === state);
      element.classList.toggle("after", after.has(id));
      element.classList.toggle("landing", landing.has(id));
    }
    for (const { source, target, element, text } of drawn)
      for (const part of [element, text]) part.classList.toggle("walked", steps.has(`${source} ${target}`));
  }

  return { svg, mark, placeOf: (id) => places.get(id) };
}

const cutLabel = (label) => (label.length > LONGEST_LABEL ? `${label.slice(0, LONGEST_LABEL - 1)}…` : label);

// Where each column lies: as far from the one before as the labels between them are long.
function columnsOf(states, edges) {
  const columnOf = new Map(states.map(({ id, column }) => [id, column]));
  const nColumns = Math.max(...columnOf.values()) + 1;
  const longest = Array(nColumns).fill(0);
  for (const { source, target, label } of edges)
    if (columnOf.get(target) === columnOf.get(source) + 1)
      longest[columnOf.get(target)] = Math.max(longest[columnOf.get(target)], cutLabel(label).length);
  let left = EDGE.start + STATE.radius;
  return longest.map((letters, column) => {
    const gap = Math.min(COLUMN.widest, Math.max(COLUMN.narrowest, COLUMN.margin + COLUMN.letter * letters));
    left += column ? gap : 0;
    return left;
  });
}

// One edge: its line, its label, and how far down and to the right it reaches.
function edgeOf(places, bottoms, { source, target, label }, edges) {
  const [from, to] = [places.get(source), places.get(target)];
  const { path, at, lowest } =
    source === target
      ? loopAt(from)
      : to.column === from.column + 1
        ? straight(from, to, edges, source)
        : to.column === from.column
          ? beside(from, to)
          : below(from, to, bottoms);
  const element = drawing("g", { class: "edge" }, drawing("path", { d: path }), arrowAt(path));
  element.append(drawing("title", {}, `${source} → ${target}: ${label}`));
  const isBeside = source !== target && from.column === to.column;
  const text = drawing("text", { class: isBeside ? "label beside" : "label", x: at.x, y: at.y }, cutLabel(label));
  text.append(drawing("title", {}, `${source} → ${target}: ${label}`));
  const rightmost = isBeside ? at.x + COLUMN.letter * cutLabel(label).length + EDGE.bottom : at.x;
  return { element, text, lowest, rightmost };
}

// The point of an arrow, where a path ends and in the direction that it has there.
function arrowAt(path) {
  const line = drawing("path", { d: path });
  const length = line.getTotalLength();
  const [end, before] = [line.getPointAtLength(length), line.getPointAtLength(Math.max(0, length - 6))];
  const turn = (Math.atan2(end.y - before.y, end.x - before.x) * 180) / Math.PI;
  return drawing("path", {
    class: "arrow",
    d: "M0 0 L-10 -5 L-10 5 Z",
    transform: `translate(${end.x} ${end.y}) rotate(${turn})`,
  });
}

function straight(from, to, edges, source) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const [x, y] = [(dx / Math.hypot(dx, dy)) * STATE.radius, (dy / Math.hypot(dx, dy)) * STATE.radius];
  const forks = edges.filter((edge) => edge.source === source).length > 1;
  const share = dy === 0 ? 0.5 : forks ? 0.55 : 0.45; // near the end at which no other label stands
  const at = { x: from.x + share * dx, y: from.y + share * dy - 6 };
  return { path: `M${from.x + x} ${from.y + y} L${to.x - x} ${to.y - y}`, at, lowest: Math.max(from.y, to.y) };
}

function loopAt({ x, y }) {
  const top = y - STATE.radius + 2;
  const path = `M${x - 9} ${top} C${x - 26} ${top - 34} ${x + 26} ${top - 34} ${x + 9} ${top}`;
  return { path, at: { x, y: top - 30 }, lowest: y };
}

// Between two states of one column: a curve on their right.
function beside(from, to) {
  const side = 0.75 * STATE.radius;
  const down = Math.sign(to.y - from.y);
  const bend = EDGE.bend + Math.abs(to.y - from.y) / 6;
  const [start, end] = [from.y + down * side, to.y - down * side];
  const path = `M${from.x + 13} ${start} C${from.x + bend} ${start + down * 8} ${to.x + bend} ${end - down * 8} ${to.x + 13} ${end}`;
  return { path, at: { x: from.x + bend * 0.8, y: (start + end) / 2 + 5 }, lowest: Math.max(from.y, to.y) };
}

// To a column that is not the next: a curve below all that stands between.
function below(from, to, bottoms) {
  const [left, right] = [Math.min(from.x, to.x), Math.max(from.x, to.x)];
  const between = [...bottoms.values()].filter(({ x }) => x >= left && x <= right);
  const depth = Math.max(...between.map(({ y }) => y)) + STATE.radius + EDGE.bend;
  const [start, end] = [from.y + STATE.radius, to.y + STATE.radius];
  const path = `M${from.x} ${start} C${from.x} ${depth + 12} ${to.x} ${depth + 12} ${to.x} ${end}`;
  const lowest = (start + end) / 8 + 0.75 * (depth + 12);
  return { path, at: { x: (from.x + to.x) / 2, y: lowest - 4 }, lowest };
}

function startOf({ x, y }) {
  const path = `M${x - STATE.radius - 30} ${y} L${x - STATE.radius} ${y}`;
  return drawing("g", { class: "edge start" }, drawing("path", { d: path }), arrowAt(path));
}

function circleOf({ id, accepting, hidden }, { x, y }) {
  const said = [`state ${id}`, accepting && "a text may end here", hidden && `${hidden} more follow, not drawn`];
  return drawing(
    "g",
    { class: "state" },
    drawing("circle", { class: "aura", cx: x, cy: y, r: STATE.radius + 5 }),
    drawing("circle", { class: "body", cx: x, cy: y, r: STATE.radius }),
    ...(accepting ? [drawing("circle", { class: "inner", cx: x, cy: y, r: STATE.radius - 4 })] : []),
    ...(hidden ? [drawing("path", { class: "hidden", d: `M${x + STATE.radius} ${y} h16` })] : []),
    drawing("text", { x, y: y + 5 }, String(id)),
    drawing("title", {}, said.filter(Boolean).join(", ")),
  );
}
