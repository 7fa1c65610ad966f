// Signed numbers as coloured cells: W, the update between its factors A and B, and their sum.

import { clamp, fit, lookOf, node, octets, placed } from "../shared/base.js";
import { short } from "../shared/numbers.js";

const LARGEST = 288; // CSS pixels, as are all that follow: of a map's longer side
const LEGIBLE = 192; // below that, maps stand under one another
const FACTOR = { thickest: 8, side: 48, gap: 4, label: 22 }; // of one of the r columns or rows, of all, and what is beside
const SIGN = 40; // the room of + and =
const EDGE = 1; // what its frame adds to a map

/**
 * A number with a minus that is as wide as a plus, to two digits.
 * @param {number} number
 */
export const signed = (number) => `${number < 0 ? "−" : ""}${short(Math.abs(number), 2)}`;

const above = FACTOR.label + FACTOR.side + FACTOR.gap; // what A takes above the update, and B at its left

/**
 * How the three maps are laid out in `width`: `size` of a cell, how many maps stand `abreast`, and how much lower than the
 * others the update stands for its factor A, `above`.
 * @param {{ cells: [rows: number, columns: number] }} result
 * @param {number} width
 */
export function layout({ cells }, width) {
  const roomFor = (abreast) => (width - (abreast - 1) * SIGN - above) / abreast - EDGE;
  const abreast = [3, 2].find((n) => roomFor(n) >= LEGIBLE) ?? 1;
  const room = Math.min(abreast === 1 ? roomFor(1) - SIGN : roomFor(abreast), LARGEST);
  const size = Math.max(1, Math.floor((room * devicePixelRatio) / Math.max(...cells))) / devicePixelRatio;
  return { size, abreast, above };
}

/**
 * A canvas for the map called `name`; `cell` is [row, column] of the cell that is pointed at, or null. With `factors`, B stands
 * at its left and A above it, as for a product by hand.
 * @param {{
 *   name: string,
 *   factors?: boolean,
 *   point: (cell: number[] | null) => void,
 * }} options
 */
export function mapCanvas({ name, factors = false, point }) {
  const canvas = node("canvas", { role: "img" });
  const left = factors ? above : 0;
  const state = { size: 1, cells: [1, 1] };

  canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => {
    const [row, column] = [offsetY, offsetX].map((at) => Math.floor((at - left) / state.size));
    const isInside = row >= 0 && column >= 0 && row < state.cells[0] && column < state.cells[1];
    point(isInside ? [row, column] : null);
  });
  canvas.addEventListener("pointerleave", () => point(null));

  /**
   * @param {any} result
   * @param {Uint8Array} ramp
   * @param {number} size
   * @param {number[] | null} cell
   */
  function draw(result, ramp, size, cell) {
    const [rows, columns] = result.cells;
    const look = lookOf(canvas);
    Object.assign(state, { size, cells: result.cells });
    const ctx = fit(canvas, left + columns * size + 1, left + rows * size + 1);
    const box = (name, x, y, width, height, shape) => {
      drawCells(ctx, result, ramp, { name, x, y, width, height, shape });
      Object.assign(ctx, { strokeStyle: look.muted, lineWidth: 1 });
      ctx.strokeRect(x + 0.5, y + 0.5, width, height);
    };
    box(name, left, left, columns * size, rows * size, [rows, columns]);
    if (factors) {
      const { r, shape } = result;
      const thick = Math.min(FACTOR.side, r * clamp(Math.floor(FACTOR.side / r), 1, FACTOR.thickest));
      const start = left - FACTOR.gap - thick;
      box("a", left, start, columns * size, thick, [r, columns]);
      box("b", start, left, thick, rows * size, [rows, r]);
      Object.assign(ctx, { font: look.code, fillStyle: look.ink, textBaseline: "bottom" });
      const say = (name, sizes, room) => {
        const text = `${name} ${sizes.map((n) => n.toLocaleString("en")).join(" × ")}`;
        ctx.fillText(ctx.measureText(text).width <= room ? text : name, 0, -4);
      };
      placed(ctx, left, start, false, () => say("A", [r, shape[1]], columns * size));
      placed(ctx, start, left + rows * size, true, () => say("B", [shape[0], r], rows * size));
      if (cell) {
        frame(ctx, look, left + cell[1] * size, start, size, thick);
        frame(ctx, look, start, left + cell[0] * size, thick, size);
      }
    }
    if (cell) frame(ctx, look, left + cell[1] * size, left + cell[0] * size, size, size);
  }
  return { canvas, draw };
}

/**
 * A map's numbers, row by row.
 * @param {any} result
 * @param {string} name
 */
export const numbersOf = (result, name) => new Float32Array(octets(result.maps[name]).slice().buffer);

/**
 * The colours of −1 to 1 as a CSS gradient.
 * @param {Uint8Array} ramp
 */
export function gradient(ramp) {
  const stops = Array.from({ length: 9 }, (_, i) => Math.round((i / 8) * 254));
  return `linear-gradient(to right, ${stops.map((at) => `rgb(${ramp.subarray(3 * at, 3 * at + 3)})`)})`;
}

function drawCells(ctx, result, ramp, { name, x, y, width, height, shape: [rows, columns] }) {
  const limit = result.limits[name] || 1;
  const image = new ImageData(columns, rows);
  numbersOf(result, name).forEach((number, i) => {
    const at = 3 * Math.round(127 + 127 * clamp(number / limit, -1, 1));
    image.data.set([ramp[at], ramp[at + 1], ramp[at + 2], 255], 4 * i);
  });
  const small = node("canvas", { width: columns, height: rows });
  small.getContext("2d").putImageData(image, 0, 0);
  ctx.imageSmoothingEnabled = false;
  ctx.drawImage(small, x, y, width, height);
}

// Around a cell, dark and light, so that it is seen on any colour.
function frame(ctx, { paper, ink }, x, y, width, height) {
  Object.assign(ctx, { strokeStyle: paper, lineWidth: 4 });
  ctx.strokeRect(x - 1, y - 1, width + 2, height + 2);
  Object.assign(ctx, { strokeStyle: ink, lineWidth: 2 });
  ctx.strokeRect(x - 1, y - 1, width + 2, height + 2);
}
