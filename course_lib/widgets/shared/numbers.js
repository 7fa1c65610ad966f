// How numbers are written for a reader: few digits, thousands separated.

/**
 * A number to three significant digits, or as many as `digits`: 12,300 and 0.0123.
 * @param {number} number
 */
export const short = (number, digits = 3) =>
  Number(number.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 20 });

/**
 * A number with the largest of `units`, [size, name] in falling order, that it reaches: "1.23 million"; else by itself.
 * @param {number} number
 * @param {[number, string][]} units
 */
export function inUnits(number, units) {
  const [size, name] = units.find(([size]) => number >= 0.9995 * size) ?? [1, ""]; // what is written as 1,000 is one more
  return `${short(number / size)}${name}`;
}

/**
 * "1 token", "2 tokens".
 * @param {number} n
 * @param {string} noun
 */
export const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

/**
 * `most` or fewer round values from low to high, but at least one step between two.
 * @param {number} low
 * @param {number} high
 * @param {number} most
 */
export function roundValues(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * unit >= rough * 0.9999) * unit;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  );
}
