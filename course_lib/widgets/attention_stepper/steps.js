// The arithmetic of AttentionStepper, the order of its steps, and how its numbers are written. Nothing here draws.

// What each stage makes, its name in the formula's words, and whether it goes cell by cell or row by row.
export const STAGES = [
  { name: "Scores", result: "scores", symbol: "q kᵀ", byCell: true },
  { name: "Scale", result: "scaled", symbol: "q kᵀ / √d", byCell: false },
  { name: "Mask", result: "masked", symbol: "q kᵀ / √d + mask", byCell: false },
  { name: "Softmax", result: "weights", symbol: "weights", byCell: false },
  { name: "Weighted sum", result: "output", symbol: "weights", byCell: true },
];
export const SUM = STAGES.length - 1;

export const column = (matrix, index) => matrix.map((row) => row[index]);
const dot = (a, b) => a.reduce((sum, number, index) => sum + number * b[index], 0);

// Everything that follows from the numbers, as `scaled_dot_product_attention` computes it.
export function attend({ q, k, v, mask }) {
  const root = Math.sqrt(q[0].length);
  const scores = q.map((query) => k.map((key) => dot(query, key)));
  const scaled = scores.map((row) => row.map((score) => score / root));
  const masked = scaled.map((row, i) => row.map((score, j) => (mask[i][j] ? score : -Infinity)));
  const softmax = masked.map(softmaxOf);
  const weights = softmax.map((row) => row.weights);
  const output = weights.map((row) => v[0].map((_, index) => dot(row, column(v, index))));
  return { root, scores, scaled, masked, softmax, weights, output };
}

// One row's softmax with what it passes through. Over nothing it would be 0/0: such a row gets zeros.
function softmaxOf(row) {
  const largest = Math.max(...row);
  if (largest === -Infinity) return { isEmpty: true, weights: row.map(() => 0) };
  const shifted = row.map((score) => score - largest);
  const powers = shifted.map(Math.exp);
  const sum = powers.reduce((a, b) => a + b);
  return { isEmpty: false, shifted, powers, sum, weights: powers.map((power) => power / sum) };
}

// All steps in order, as {stage, row, column}; the column is the last one where a whole row is done at once.
export function timeline({ q, k, v }) {
  return STAGES.flatMap(({ byCell }, stage) => {
    const columns = stage === SUM ? v[0].length : k.length;
    return q.flatMap((_, row) => {
      if (!byCell) return [{ stage, row, column: columns - 1 }];
      return Array.from({ length: columns }, (_, column) => ({ stage, row, column }));
    });
  });
}

// Has the step `now` come as far as this cell?
export const isDone = (now, row, column) => row < now.row || (row === now.row && column <= now.column);

// A number as a cell shows it, in six characters at most: exactly if that is short, else to two significant digits.
export function short(number) {
  if (number === -Infinity) return "−∞";
  const exact = String(number);
  const rounded = Math.abs(number) < 99.5 ? number.toPrecision(2) : number.toFixed(0);
  const text = exact.replace("-", "").length <= 4 ? exact : rounded;
  return (text.length <= 6 ? text : number.toExponential(0).replace("e+", "e")).replaceAll("-", "−");
}

// Are these numbers written in full? Then a line that computes with them may say “=”, else “≈”.
export const isExact = (...numbers) =>
  numbers.every((number) => number === -Infinity || Number(short(number).replaceAll("−", "-")) === number);

// A factor within a sum: a negative one in brackets.
export const factor = (number) => (number < 0 ? `(${short(number)})` : short(number));
