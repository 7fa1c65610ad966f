// The two pictures of one attention head, and what is said of them. Each view draws itself and then says which token the pointer is on.
// `focus` is what the learner points at ({query, key}, either may be missing) and the pinned queries and keys.

import { clamp, drawChip, fit, node, placed, tokenChip } from "./base.js";

/**
 * @typedef {{ query?: number, key?: number }} Place a token, or with both a cell
 * @typedef {{ bytes: Uint8Array, side: number, whole: boolean }} HeadMap
 * @typedef {{ active: Place | null, pins: Record<"query" | "key", Set<number>> }} Focus
 * @typedef {{
 *   canvas: HTMLCanvasElement,
 *   room: { width: number, height: number },
 *   scroll: number,
 *   tokens: import("./base.js").Token[],
 *   map: HeadMap,
 *   ramp: Uint8Array,
 *   look: ReturnType<typeof import("./base.js").lookOf>,
 *   focus: Focus,
 * }} Scene
 * @typedef {{
 *   name: string,
 *   label: string,
 *   start: (last: number) => Place,
 *   move: (from: Place, down: number, right: number, last: number) => Place,
 *   draw: (scene: Scene) => (x: number, y: number) => Place | null,
 * }} HeadView
 */

const CELL = { labelled: 18, largest: 40 }; // CSS pixels: in smaller cells, positions stand where the tokens would
export const TITLE = 24; // CSS pixels for the words "query" and "key"
const GUTTER = 120; // CSS pixels at most for a token's text
export const ROW = 24; // CSS pixels of one token among the arcs
const FAINTEST = 5; // of 255: a weaker weight draws no arc

/**
 * Weights (query, key) as colours, `pixels` wide and high. Where several weights meet in a pixel the largest shows, so
 * that a thin line survives; where the key comes after the query there is nothing.
 * @param {Uint8Array} bytes
 * @param {number} side
 * @param {number} pixels
 * @param {Uint8Array} ramp
 */
export function paint(bytes, side, pixels, ramp) {
  const image = new ImageData(pixels, pixels);
  const edges = Array.from({ length: pixels + 1 }, (_, pixel) => Math.floor((pixel * side) / pixels));
  for (let y = 0; y < pixels; y++) {
    const bottom = Math.max(edges[y] + 1, edges[y + 1]);
    for (let x = 0; x < pixels && edges[x] < bottom; x++) {
      const right = Math.max(edges[x] + 1, edges[x + 1]);
      let weight = 0;
      for (let query = edges[y]; query < bottom; query++) {
        for (let key = edges[x]; key < right; key++) weight = Math.max(weight, bytes[query * side + key]);
      }
      image.data.set(ramp.subarray(3 * weight, 3 * weight + 3), 4 * (y * pixels + x));
      image.data[4 * (y * pixels + x) + 3] = 255;
    }
  }
  return image;
}

/**
 * All weights at once, rows are queries and columns keys.
 * @type {HeadView}
 */
export const matrixView = {
  name: "Matrix",
  label: "Attention matrix: arrow keys move, Enter pins the query, Escape clears.",
  start: (last) => ({ query: last, key: last }),
  move: ({ query, key }, down, right, last) => ({
    query: clamp(query + down, 0, last),
    key: clamp(key + right, 0, last),
  }),

  draw({ canvas, room, tokens, map, ramp, look, focus }) {
    const n = tokens.length;
    const ctx = canvas.getContext("2d");
    ctx.font = look.code;
    const text = Math.min(
      GUTTER,
      Math.max(...tokens.slice(0, CELL.largest).map(({ chip }) => ctx.measureText(chip).width)) + 18,
    );
    const cellBeside = (gutter) => Math.min((room.width - gutter) / n, (room.height - gutter) / n, CELL.largest);
    const hasChips = cellBeside(TITLE + text) >= CELL.labelled;
    const gutter = TITLE + (hasChips ? Math.ceil(text) : 40);
    const cell = hasChips ? Math.floor(cellBeside(gutter)) : cellBeside(gutter);
    const side = Math.max(1, Math.floor(cell * n));
    const start = (index) => gutter + index * cell;

    fit(canvas, gutter + side + 2, gutter + side + 2);
    const pixels = Math.round(side * devicePixelRatio);
    const corner = Math.round(gutter * devicePixelRatio);
    ctx.putImageData(paint(map.bytes, map.side, pixels, ramp), corner, corner);

    for (const role of ["query", "key"]) {
      const isKey = role === "key";
      const pinned = [...focus.pins[role]].map((index) => [index, 2.5]);
      for (const [index, width] of focus.active ? [...pinned, [focus.active[role], 1.5]] : pinned) {
        Object.assign(ctx, { strokeStyle: look[role], lineWidth: width });
        if (isKey) ctx.strokeRect(start(index), gutter, cell, side);
        else ctx.strokeRect(gutter, start(index), side, cell);
      }
      for (let index = 0; index < n; index += hasChips ? 1 : ticks(n)) {
        const middle = start(index) + cell / 2;
        placed(ctx, isKey ? middle : gutter - 6, isKey ? gutter - 6 : middle, isKey, () => {
          const style = hasChips ? tone(look, focus, role, index) : { font: look.code, color: look.muted };
          const shown = hasChips ? tokens[index].chip : String(index);
          drawChip(ctx, shown, { ...style, align: isKey ? "left" : "right", room: GUTTER - 8 });
        });
      }
      const middle = gutter + side / 2;
      placed(ctx, isKey ? middle : 10, isKey ? 10 : middle, !isKey, () => {
        Object.assign(ctx, { font: look.bold, fillStyle: look[role], textAlign: "center", textBaseline: "middle" });
        ctx.fillText(role, 0, 0);
      });
    }

    return (x, y) => {
      const [key, query] = [x, y].map((offset) => Math.floor((offset - gutter) / cell));
      return Math.min(query, key) >= 0 && Math.max(query, key) < n ? { query, key } : null;
    };
  },
};

/**
 * Queries at the left, keys at the right, and every weight an arc between them.
 * @type {HeadView}
 */
export const arcView = {
  name: "Arcs",
  label: "Attention arcs: up and down choose a token, left and right its column, Enter pins it, Escape clears.",
  start: (last) => ({ query: last }),
  move({ query, key }, down, right, last) {
    const isQuery = right === 0 ? query !== undefined : right < 0;
    const index = clamp((query ?? key) + down, 0, last);
    return isQuery ? { query: index } : { key: index };
  },

  draw({ canvas, room, scroll, tokens, map, look, focus }) {
    const n = tokens.length;
    const height = Math.min(room.height, TITLE + n * ROW);
    const width = Math.min(room.width, 620);
    const column = Math.min(170, width * 0.34);
    const ctx = fit(canvas, width, height);
    const middle = (index) => TITLE + (index + 0.5) * ROW - scroll;
    const isSeen = (index) => middle(index) > TITLE - ROW && middle(index) < height + ROW;
    const { active, pins } = focus;
    const hasFocus = active !== null || pins.query.size + pins.key.size > 0;
    const isShown = (query, key) => {
      return !hasFocus || pins.query.has(query) || pins.key.has(key) || active?.query === query || active?.key === key;
    };

    ctx.save();
    ctx.beginPath();
    ctx.rect(0, TITLE, width, height - TITLE);
    ctx.clip();
    const [left, right] = [column + 4, width - column - 4];
    ctx.strokeStyle = ctx.createLinearGradient(left, 0, right, 0);
    ctx.strokeStyle.addColorStop(0, look.query);
    ctx.strokeStyle.addColorStop(1, look.key);
    for (let query = 0; map.whole && query < n; query++) {
      for (let key = 0; key <= query; key++) {
        const weight = map.bytes[query * n + key];
        if (weight < FAINTEST || !isShown(query, key) || !(isSeen(query) || isSeen(key))) continue;
        Object.assign(ctx, { globalAlpha: 0.2 + 0.8 * (weight / 255), lineWidth: 1 + 6 * (weight / 255) });
        ctx.beginPath();
        ctx.moveTo(left, middle(query));
        ctx.bezierCurveTo((left + right) / 2, middle(query), (left + right) / 2, middle(key), right, middle(key));
        ctx.stroke();
      }
    }
    ctx.globalAlpha = 1;
    tokens.forEach(({ chip }, index) => {
      if (!isSeen(index)) return;
      const options = { room: column - 8 };
      placed(ctx, column, middle(index), false, () =>
        drawChip(ctx, chip, { ...options, ...tone(look, focus, "query", index), align: "right" }),
      );
      placed(ctx, width - column, middle(index), false, () =>
        drawChip(ctx, chip, { ...options, ...tone(look, focus, "key", index), align: "left" }),
      );
    });
    ctx.restore();

    Object.assign(ctx, { font: look.bold, textBaseline: "middle", fillStyle: look.query, textAlign: "right" });
    ctx.fillText("query", column - 5, 10);
    Object.assign(ctx, { fillStyle: look.key, textAlign: "left" });
    ctx.fillText("key", width - column + 5, 10);

    return (x, y) => {
      const index = Math.floor((y + scroll - TITLE) / ROW);
      if (y < TITLE || index < 0 || index >= n || (x > column && x < width - column)) return null;
      return x <= column ? { query: index } : { key: index };
    };
  },
};

// A token pointed at is filled, a pinned one outlined.
function tone(look, focus, role, index) {
  const isActive = focus.active?.[role] === index;
  const fill = isActive ? look[role] : look.sunk;
  return {
    font: look.code,
    fill,
    color: isActive ? look.paper : look.ink,
    stroke: focus.pins[role].has(index) && look[role],
  };
}

// A round distance between the positions written beside a long matrix: eight or so of them.
const ticks = (n) => 2 ** Math.max(3, Math.round(Math.log2(n / 8)));

/**
 * What the read-out shows of the token or the cell pointed at.
 * @param {import("./base.js").Token[]} tokens
 * @param {HeadMap} map
 * @param {Place | null} active
 */
export function readoutOf(tokens, map, active) {
  if (!map.whole) return [node("span", { className: "muted", textContent: "Fetching the whole map …" })];
  if (!active)
    return [
      node("span", {
        className: "muted",
        textContent: "Point at a token, or use the arrow keys. Click or Enter pins.",
      }),
    ];
  const { query, key } = active;
  const weight = (q, k) => (map.bytes[q * map.side + k] / 255).toFixed(2);
  const named = (role, index) => [
    node("span", { className: role, textContent: role }),
    tokenChip(tokens[index]),
    node("span", { className: "muted", textContent: `position ${index}, id ${tokens[index].id}` }),
  ];
  if (query !== undefined && key !== undefined) {
    const text = key > query ? "masked: a key after its query" : `weight ${weight(query, key)}`;
    return [
      node("div", {}, ...named("query", query)),
      node("div", {}, ...named("key", key), node("b", { textContent: text })),
    ];
  }
  const isQuery = query !== undefined;
  const of = (other) => (isQuery ? [query, other] : [other, key]);
  const others = ranked(map, active).slice(0, 3);
  return [
    node("div", {}, ...named(isQuery ? "query" : "key", query ?? key)),
    node(
      "div",
      {},
      isQuery ? "attends most to" : "gets most from",
      ...others.flatMap((other) => [
        tokenChip(tokens[other]),
        node("span", { className: "muted", textContent: `at ${other}` }),
        node("b", { textContent: weight(...of(other)) }),
      ]),
    ),
  ];
}

/**
 * The tokens at the other end of the strongest arcs, strongest first.
 * @param {HeadMap} map
 * @param {Place} place
 */
function ranked(map, { query, key }) {
  const isQuery = query !== undefined;
  const others = Array.from({ length: isQuery ? query + 1 : map.side - key }, (_, index) =>
    isQuery ? index : key + index,
  );
  const weight = (other) => map.bytes[isQuery ? query * map.side + other : other * map.side + key];
  return others.sort((a, b) => weight(b) - weight(a));
}

/**
 * The same in one sentence, for a screen reader.
 * @param {any} explorer
 * @param {Place} active
 */
export function spoken(explorer, active) {
  const { tokens } = explorer.result();
  const map = explorer.map();
  const piece = (index) => JSON.stringify(tokens[index].piece);
  const weight = (query, key) => (map.bytes[query * map.side + key] / 255).toFixed(2);
  const place = `layer ${explorer.layer()} head ${explorer.head()}:`;
  if (!map.whole) return `${place} fetching the whole map`;
  const { query, key } = active;
  if (query !== undefined && key > query) return `${place} query ${piece(query)}, key ${piece(key)}, masked`;
  if (query !== undefined && key !== undefined)
    return `${place} query ${piece(query)}, key ${piece(key)}, weight ${weight(query, key)}`;
  const [other] = ranked(map, active);
  if (key === undefined)
    return `${place} query ${piece(query)} attends most to ${piece(other)} ${weight(query, other)}`;
  return `${place} key ${piece(key)} gets most from ${piece(other)} ${weight(other, key)}`;
}
