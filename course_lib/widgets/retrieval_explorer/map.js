// The map of all chunks: found ones marked by colour and shape, the query's own point, and the chunk that is pointed at.

import { clamp, drawing, fit, lookOf, node } from "../shared/base.js";
import { short } from "../shared/numbers.js";

const REACH = 14; // CSS pixels within which a point is pointed at
const MARGIN = 16;
const KINDS = ["words", "meaning", "both"];
const NAMES = { words: "by words", meaning: "by meaning", both: "by both", query: "the query" };
const SHAPES = {
  words: "M -6 -6 H 6 V 6 H -6 Z",
  meaning: "M 0 -7.5 L 7.5 6 H -7.5 Z",
  both: "M 0 -8.5 L 8.5 0 L 0 8.5 L -8.5 0 Z",
  query: "M -10 0 A 10 10 0 1 0 10 0 A 10 10 0 1 0 -10 0 Z",
};

/**
 * The shape that marks what was found in this way.
 * @param {string} kind
 */
export function glyph(kind) {
  const letter = drawing("text", { x: 0, y: 5, "text-anchor": "middle" }, "Q");
  const shape = drawing("path", { d: SHAPES[kind] });
  const parts = kind === "query" ? [shape, letter] : [shape];
  return drawing("svg", { class: `glyph ${kind}`, viewBox: "-11 -11 22 22", "aria-hidden": "true" }, ...parts);
}

/**
 * The map, what is pointed at, and how much of the vectors it shows.
 * @param {import("./view.js").Explorer} view
 */
export function mapPanel(view) {
  const canvas = node("canvas", { tabIndex: 0, role: "application" });
  const readout = node("p", { className: "readout", role: "status" });
  const about = node("p", { className: "muted" });
  const samples = ["query", ...KINDS].map((kind) => node("span", {}, glyph(kind), NAMES[kind]));
  const star = node("span", {}, node("b", { textContent: "★ " }), "right passage");
  star.hidden = view.get("menu").length === 0;
  const legend = node("div", { className: "legend" }, ...samples, star);
  const title = node("h3", { textContent: "The map of all chunks" });
  const element = node("section", { className: "map" }, title, canvas, legend, readout, about);
  const parts = [canvas, legend, readout];
  let layer = null; // all points, drawn once for a size, a theme and a frame
  let screen = null; // where they are

  canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => view.look(nearestPoint(screen, offsetX, offsetY)));
  canvas.addEventListener("pointerleave", () => view.look(null));
  canvas.addEventListener("click", () => view.looked !== null && view.open(view.looked));
  canvas.addEventListener("keydown", (event) => {
    const to = whereTo(view, screen, event.key);
    if (to === undefined) return;
    event.preventDefault();
    view.look(to);
    if (event.key === "Enter" && to !== null) view.open(to);
    if (to !== null) view.announce(inWords(view, to));
  });

  const draw = () => {
    const isThere = view.points.length > 0;
    for (const part of parts) part.hidden = !isThere;
    if (!isThere) {
      about.textContent = `There is no map here: ${view.get("no_map")}.`;
      return;
    }
    const width = element.clientWidth;
    if (width === 0) return; // not on the page yet, or in a hidden tab
    const { point } = view.result();
    const look = lookOf(canvas);
    const key = JSON.stringify([width, devicePixelRatio, point, look]);
    const height = clamp(width * 0.75, 240, 380);
    if (layer?.key !== key) {
      screen = placedPoints(view.points, point, width, height);
      layer = { key, canvas: drawnPoints(screen, look, width, height) };
    }
    const ctx = fit(canvas, width, height);
    ctx.drawImage(layer.canvas, 0, 0, width, height);
    drawMarks(ctx, view, screen, look);
    canvas.ariaLabel = `Map of ${view.count.toLocaleString("en")} chunks. Arrow keys go from chunk to chunk, Page Down along those found, Enter opens one`;
    readout.textContent =
      view.looked === null ? "Point at a chunk, or go to one with the arrow keys." : inWords(view, view.looked);
    readout.classList.toggle("muted", view.looked === null);
    about.textContent = `The map shows ${short(100 * view.get("share"), 2)} % of the variance of the chunks' vectors: what is near here may be far apart.`;
  };
  return { element, draw };
}

function inWords(view, item) {
  const found = view.result().found[item];
  const ranks = found?.ranks.map((rank, i) => rank && `${["by words", "by meaning", "fused"][i]} number ${rank}`);
  const said = [view.place(item), ...(ranks ?? []).filter(Boolean)].join("; ");
  return view.isRight(item) ? `${said}; the right passage` : said;
}

// ---- Where points are, and which is near ----

function placedPoints(points, query, width, height) {
  const all = query ? [...query] : [points[0], points[1]];
  let [left, right, bottom, top] = [all[0], all[0], all[1], all[1]];
  for (let i = 0; i < points.length; i += 2) {
    left = Math.min(left, points[i]);
    right = Math.max(right, points[i]);
    bottom = Math.min(bottom, points[i + 1]);
    top = Math.max(top, points[i + 1]);
  }
  // One scale for both axes, so that distances on the map are those in the plane.
  const scale = Math.min((width - 2 * MARGIN) / (right - left || 1), (height - 2 * MARGIN) / (top - bottom || 1));
  const x = (value) => width / 2 + (value - (left + right) / 2) * scale;
  const y = (value) => height / 2 - (value - (bottom + top) / 2) * scale;
  const xs = Float32Array.from({ length: points.length / 2 }, (_, i) => x(points[2 * i]));
  const ys = Float32Array.from(xs, (_, i) => y(points[2 * i + 1]));
  return { xs, ys, query: query && [x(query[0]), y(query[1])] };
}

function nearestPoint(screen, x, y) {
  if (!screen) return null;
  const { xs, ys } = screen;
  let best = null;
  let least = REACH ** 2;
  for (let i = 0; i < xs.length; i++) {
    const away = (xs[i] - x) ** 2 + (ys[i] - y) ** 2;
    if (away < least) [best, least] = [i, away];
  }
  return best;
}

// The chunk that a key leads to, null for none; undefined if it is no such key.
function whereTo(view, screen, key) {
  if (!screen) return undefined;
  const fused = view.result().lists[2].map(([item]) => item);
  const start = fused[0] ?? 0;
  const along = { PageDown: 1, PageUp: -1 }[key];
  const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  if (key === "Escape") return null;
  if (key === "Enter") return view.looked;
  if (key === "Home") return start;
  if (along && fused.length === 0) return null;
  if (along) return fused[clamp(fused.indexOf(view.looked) + along, 0, fused.length - 1)];
  if (!step) return undefined;
  return view.looked === null ? start : towards(screen, view.looked, step);
}

// The nearest point in a direction: within 45° of it.
function towards({ xs, ys }, from, [dx, dy]) {
  let best = from;
  let least = Infinity;
  for (let i = 0; i < xs.length; i++) {
    const [x, y] = [xs[i] - xs[from], ys[i] - ys[from]];
    const [ahead, aside] = [x * dx + y * dy, Math.abs(x * dy + y * dx)];
    const away = x * x + y * y;
    if (ahead > 0 && aside <= ahead && away < least) [best, least] = [i, away];
  }
  return best;
}

// ---- Drawing ----

function drawnPoints({ xs, ys }, look, width, height) {
  const canvas = node("canvas");
  const ctx = fit(canvas, width, height);
  const isMany = xs.length > 2000;
  const size = isMany ? 2 : xs.length > 200 ? 4 : 7;
  Object.assign(ctx, { fillStyle: look.residual, globalAlpha: isMany ? 0.4 : 0.55 });
  for (let i = 0; i < xs.length; i++) {
    ctx.beginPath();
    if (isMany)
      ctx.rect(xs[i] - size / 2, ys[i] - size / 2, size, size); // too small to tell from a circle
    else ctx.arc(xs[i], ys[i], size / 2, 0, 2 * Math.PI);
    ctx.fill();
  }
  return canvas;
}

function drawMarks(ctx, view, { xs, ys, query }, look) {
  const { lists, right } = view.result();
  const [words, meaning] = lists.map((list) => new Set(list.map(([item]) => item)));
  const colours = { words: look.key, meaning: look.value, both: look.ink, query: look.query };
  const mark = (kind, x, y) => shape(ctx, new Path2D(SHAPES[kind]), x, y, colours[kind], look.paper);
  for (const item of new Set([...words, ...meaning])) {
    const kind = words.has(item) && meaning.has(item) ? "both" : words.has(item) ? "words" : "meaning";
    mark(kind, xs[item], ys[item]);
  }
  Object.assign(ctx, { textAlign: "center", textBaseline: "middle", font: look.bold });
  for (const [i, [item]] of lists[2].slice(0, 5).entries()) outlined(ctx, String(i + 1), xs[item], ys[item] - 17, look);
  for (const item of right?.items ?? []) outlined(ctx, "★", xs[item] + 15, ys[item], look);
  if (query) {
    mark("query", ...query);
    ctx.fillStyle = look.paper;
    ctx.fillText("Q", query[0], query[1] + 1);
  }
  const opened = view.opened();
  if (opened !== undefined && opened !== null) ring(ctx, xs[opened], ys[opened], 13, look, []);
  if (view.looked !== null) ring(ctx, xs[view.looked], ys[view.looked], 17, look, [4, 3]);
}

function shape(ctx, path, x, y, fill, edge) {
  ctx.save();
  ctx.translate(x, y);
  Object.assign(ctx, { fillStyle: fill, strokeStyle: edge, lineWidth: 2 });
  ctx.stroke(path);
  ctx.fill(path);
  ctx.restore();
}

function outlined(ctx, text, x, y, { paper, ink }) {
  Object.assign(ctx, { strokeStyle: paper, lineWidth: 4, fillStyle: ink, lineJoin: "round" });
  ctx.strokeText(text, x, y);
  ctx.fillText(text, x, y);
}

function ring(ctx, x, y, radius, { ink, paper }, dash) {
  for (const [strokeStyle, lineWidth] of [
    [paper, 4],
    [ink, 2],
  ]) {
    Object.assign(ctx, { strokeStyle, lineWidth });
    ctx.setLineDash(strokeStyle === ink ? dash : []);
    ctx.beginPath();
    ctx.arc(x, y, radius, 0, 2 * Math.PI);
    ctx.stroke();
  }
  ctx.setLineDash([]);
}
