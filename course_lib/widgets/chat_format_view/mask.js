// Who sees whom in one row: query × key, position 0 top left, and the positions that the model is told.

import { clamp, fit, lookOf, node, octets, placed, tokenChip } from "../shared/base.js";
import { choiceRow } from "../shared/settings.js";

const LEFT = 84; // CSS pixels for "query" and the chats' numbers
const TOP = 96; // CSS pixels for "key", the chats' numbers and their positions
const LARGEST = 420; // CSS pixels of the mask's side
const NAME = 10; // CSS pixels from the edge: the middle of the role
const CHAT = 32; // of a chat's number
const RAMP = { zero: 92, highest: 62 }; // of the first position and of the last

/** @param {import("../shared/settings.js").View} view */
export function maskPanel(view) {
  const modes = choiceRow({
    label: "Attention",
    choices: [
      [true, "inside each chat"],
      [false, "plain causal"],
    ],
    chosen: () => view.settings().isolated,
    choose: (isolated) => view.set({ isolated }),
  });
  const title = node("h3");
  const canvas = node("canvas", { tabIndex: 0, role: "application" });
  const sample = (kind, textContent) => node("span", { className: `sample ${kind}`, textContent });
  const samples = {
    seen: sample("seen", "seen"),
    other: sample("other", "seen, of another chat"),
    blind: sample("blind", "not seen"),
    pad: sample("pad", "padding"),
  };
  const legend = node("p", { className: "legend" }, ...Object.values(samples));
  const readout = node("div", { className: "readout", ariaLive: "polite" });
  const said = node("p");
  const none = node("p", { className: "muted", textContent: "The chosen chat is in no row." });
  const side = node("div", { className: "side" }, said, legend, readout);
  const element = node(
    "section",
    { className: "mask" },
    node("header", {}, title, modes.element),
    none,
    node("div", { className: "bench" }, canvas, side),
  );
  let cell = 1; // CSS pixels
  let active = null; // {query, key} that is pointed at

  function aim(place) {
    active = place;
    draw();
  }

  canvas.addEventListener("blur", () => aim(null));
  canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => {
    const [key, query] = [Math.floor((offsetX - LEFT) / cell), Math.floor((offsetY - TOP) / cell)];
    const length = view.result().row_length;
    aim(Math.min(query, key) >= 0 && Math.max(query, key) < length ? { query, key } : null);
  });
  canvas.addEventListener("pointerleave", () => aim(null));
  canvas.addEventListener("keydown", (event) => {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[
      event.key
    ] ?? [0, 0];
    if (!down && !right && event.key !== "Escape") return;
    event.preventDefault();
    if (event.key === "Escape") return aim(null);
    const last = view.result().row_length - 1;
    const { query, key } = active ?? { query: 0, key: 0 };
    aim({ query: clamp(query + down, 0, last), key: clamp(key + right, 0, last) });
  });

  function draw() {
    const { row, row_length, rows } = view.result();
    const { isolated } = view.settings();
    modes.draw();
    none.hidden = row !== null;
    canvas.hidden = side.hidden = row === null;
    title.textContent = row ? `Attention in row ${row.number + 1}` : "Attention";
    if (row === null || element.clientWidth === 0) return;
    if (active && Math.max(active.query, active.key) >= row_length) active = null;
    const extent = Math.min(LARGEST, element.clientWidth - LEFT - 4);
    cell = extent / row_length;
    const scene = { side: extent, cell, row, row_length, segments: rows[row.number], isolated, active };
    drawMask(canvas, scene);
    samples.other.hidden = isolated;
    samples.pad.hidden = row.tokens.length === row_length;
    canvas.ariaLabel = `Attention mask, rows are queries and columns keys, ${row_length} tokens, ${isolated ? "inside each chat" : "plain causal"}: arrow keys move, Escape clears.`;
    readout.replaceChildren(...readoutOn(scene));
    readout.classList.toggle("muted", active === null);
    said.replaceChildren(...inWordsOf(row, isolated));
  }
  return { element, draw };
}

function drawMask(canvas, scene) {
  const { side, cell, row, row_length, isolated, active } = scene;
  const look = lookOf(canvas);
  const ctx = fit(canvas, LEFT + side + 2, TOP + side + 2);
  const own = octets(row.own);
  ctx.fillStyle = look.sunk;
  ctx.fillRect(LEFT, TOP, side, side);
  const [seen, others] = [new Path2D(), new Path2D()];
  for (let query = 0; query < row.tokens.length; query++) {
    const isOwn = (key) => own[query * row_length + key] === 1;
    for (let key = 0, start = 0; key <= query; start = key) {
      while (key <= query && isOwn(key) === isOwn(start)) key++;
      const path = isOwn(start) ? seen : others;
      path.rect(LEFT + start * cell, TOP + query * cell, (key - start) * cell, cell + 0.3);
    }
  }
  ctx.fillStyle = look.residual;
  ctx.fill(seen);
  if (!isolated) {
    ctx.save();
    ctx.clip(others);
    Object.assign(ctx, { fillStyle: look.key, globalAlpha: 0.35 });
    ctx.fillRect(LEFT, TOP, side, side);
    ctx.globalAlpha = 1;
    hatch(ctx, look.key, [LEFT, TOP, side, side]);
    ctx.restore();
  }
  const end = row.tokens.length * cell; // what pads the row, as query and as key
  for (const [left, top, width, height] of [
    [LEFT, TOP + end, side, side - end],
    [LEFT + end, TOP, side - end, end],
  ]) {
    ctx.fillStyle = look.paper;
    ctx.fillRect(left, top, width, height);
    hatch(ctx, look.muted, [left, top, width, height]);
  }
  drawAxes(ctx, look, scene);
  if (!active) return;
  ctx.lineWidth = 2;
  ctx.strokeStyle = look.query;
  ctx.strokeRect(LEFT, TOP + active.query * cell, side, Math.max(cell, 3));
  ctx.strokeStyle = look.key;
  ctx.strokeRect(LEFT + active.key * cell, TOP, Math.max(cell, 3), side);
}

function hatch(ctx, colour, [left, top, width, height]) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  Object.assign(ctx, { strokeStyle: colour, lineWidth: 1 });
  ctx.beginPath();
  for (let at = left - height - ((left - height) % 7); at < left + width; at += 7) {
    ctx.moveTo(at, top + height);
    ctx.lineTo(at + height, top);
  }
  ctx.stroke();
  ctx.restore();
}

// Each chat's number along both axes; along the keys also the positions, which rise, and from 0 again where a chat begins.
function drawAxes(ctx, look, { side, cell, row, segments, isolated }) {
  Object.assign(ctx, { textAlign: "center", textBaseline: "middle", font: look.bold, fillStyle: look.key });
  ctx.fillText("key", LEFT + side / 2, NAME);
  ctx.fillStyle = look.query;
  placed(ctx, NAME, TOP + side / 2, true, () => ctx.fillText("query", 0, 0));

  Object.assign(ctx, { fillStyle: look.ink, strokeStyle: look.muted, lineWidth: 1 });
  ctx.beginPath();
  for (const { chat, start, end } of segments) {
    const middle = (cell * (start + end)) / 2;
    const name = cell * (end - start) > 60 ? `chat ${chat + 1}` : String(chat + 1);
    ctx.fillText(name, LEFT + middle, CHAT);
    placed(ctx, CHAT, TOP + middle, true, () => ctx.fillText(name, 0, 0));
    ctx.moveTo(LEFT + end * cell, CHAT - 10);
    ctx.lineTo(LEFT + end * cell, TOP + side);
    ctx.moveTo(CHAT - 10, TOP + end * cell);
    ctx.lineTo(LEFT + side, TOP + end * cell);
  }
  ctx.stroke();

  const n_tokens = row.tokens.length;
  const highest = Math.max(1, ...row.places.slice(0, n_tokens));
  const x = (index) => LEFT + (index + 0.5) * cell;
  const y = (index) => RAMP.zero - ((RAMP.zero - RAMP.highest) * row.places[index]) / highest;
  Object.assign(ctx, { strokeStyle: look.ink, lineWidth: 2 });
  ctx.beginPath();
  for (let index = 0; index < n_tokens; index++) {
    if (row.places[index] === 0) ctx.moveTo(x(index), y(index));
    ctx.lineTo(x(index), y(index));
  }
  ctx.stroke();
  Object.assign(ctx, { font: look.code, fillStyle: look.muted, textAlign: "right" });
  ctx.fillText("position", LEFT - 6, (RAMP.zero + RAMP.highest) / 2);
  for (const { start, end } of isolated ? segments : segments.slice(-1))
    if (cell * (end - start) > 40) ctx.fillText(String(row.places[end - 1]), x(end - 1) - 2, RAMP.highest - 11);
}

function readoutOn({ row, active, isolated, row_length }) {
  if (!active) return ["Point at a cell, or use the arrow keys."];
  const named = (role) => {
    const index = active[role];
    const token = row.tokens[index];
    const name = node("span", { className: role, textContent: role });
    if (!token) return node("div", {}, name, `padding, place ${index}`);
    const where = `chat ${row.chats[index] + 1}, position ${row.places[index]}`;
    return node("div", {}, name, tokenChip(token), where);
  };
  const { query, key } = active;
  const isOwn = octets(row.own)[query * row_length + key] === 1;
  const isPadding = query >= row.tokens.length;
  const said = verdict({ query, key, isPadding, isOwn, isolated });
  return [named("query"), named("key"), node("b", { textContent: said })];
}

function verdict({ query, key, isPadding, isOwn, isolated }) {
  if (isPadding) return "padding has no target: what it sees changes nothing";
  if (key > query) return "not seen: the key comes later";
  if (isOwn) return "seen";
  return isolated ? "not seen: the key is of another chat" : "seen, though the key is of another chat";
}

function inWordsOf(row, isolated) {
  const share = node("b", { textContent: `${Math.round((100 * row.n_others) / row.n_seen)} %` });
  if (row.n_others === 0) return ["One chat stands in this row: there is no other to see."];
  if (isolated) return ["No chat sees another, and in each the positions begin at 0, as if it stood alone."];
  return ["Of what the tokens see, ", share, " is of another chat, and the positions go on as if all were one text."];
}
