// The present step of AttentionStepper, written out in numbers.

import { node } from "../shared/base.js";
import { attend, column, factor, isExact, short } from "./steps.js";

export function workPanel(stepper) {
  const title = node("h3");
  const lines = node("div", { className: "lines" });
  const note = node("p", { className: "muted" });
  const hint = node("p", {
    className: "muted",
    textContent:
      "Click a number to change it, a cell of the mask to hide or show a key. Keys: ← and → step, Space plays, 1 to 5 choose a stage.",
  });
  const element = node(
    "section",
    { className: "work" },
    node("div", { className: "said", role: "status" }, title, lines, note),
    hint,
  );

  function draw() {
    const numbers = stepper.numbers();
    const now = stepper.now();
    const explain = [explainScore, explainScale, explainMask, explainSoftmax, explainSum][now.stage];
    const { heading, content, remark } = explain(numbers, attend(numbers), now, stepper.chips());
    title.replaceChildren(...heading);
    lines.replaceChildren(...content);
    note.textContent = remark;
  }
  return { element, draw };
}

const chipOf = (role, chips, index) => node("span", { className: `chip ${role}`, textContent: chips[role][index] });

// “2·1 + 0·3 = 2”: each factor in its matrix's colour.
function products(left, leftRole, right, rightRole, result) {
  const terms = left.flatMap((number, index) => [
    index ? " + " : "",
    node("span", { className: leftRole, textContent: factor(number) }),
    "·",
    node("span", { className: rightRole, textContent: factor(right[index]) }),
  ]);
  const sign = isExact(...left, ...right, result) ? " = " : " ≈ ";
  return node("p", { className: "sum" }, ...terms, sign, node("b", { textContent: short(result) }));
}

// A token as the header of a table's row or column.
export function tokenHeader(scope, chip) {
  return node("th", { scope }, node("span", { className: "chip", textContent: chip, title: chip }));
}

// A row's numbers, key by key, one line for each thing done to it.
function lineTable(chips, ...lines) {
  const head = node("tr", {}, node("td"), ...chips.key.map((chip) => tokenHeader("col", chip)));
  const rows = lines.map(([name, cells]) => {
    const header = node("th", { scope: "row", textContent: name });
    return node("tr", {}, header, ...cells.map((text) => node("td", { textContent: text })));
  });
  return node("table", { className: "row-work" }, node("thead", {}, head), node("tbody", {}, ...rows));
}

function explainScore({ q, k }, { scores }, { row, column }, chips) {
  return {
    heading: ["Score of ", chipOf("query", chips, row), " with ", chipOf("key", chips, column)],
    content: [products(q[row], "query", k[column], "key", scores[row][column])],
    remark: "A row of q times a column of kᵀ: the dot product of a query with a key.",
  };
}

function explainScale({ q }, { root, scores, scaled }, { row }, chips) {
  const name = `÷ √${q[0].length}`;
  return {
    heading: ["Scale the scores of ", chipOf("query", chips, row)],
    content: [lineTable(chips, ["score", scores[row].map(short)], [name, scaled[row].map(short)])],
    remark: `d = ${q[0].length} numbers in a query and in a key, so divide by √${q[0].length} ${isExact(root) ? "=" : "≈"} ${short(root)}.`,
  };
}

function explainMask({ mask }, { scaled, masked }, { row }, chips) {
  const hidden = mask[row].filter((isSeen) => !isSeen).length;
  return {
    heading: ["Mask the row of ", chipOf("query", chips, row)],
    content: [
      lineTable(
        chips,
        ["score ÷ √d", scaled[row].map(short)],
        ["mask", mask[row].map((isSeen) => (isSeen ? "✓" : "−∞"))],
        ["masked", masked[row].map(short)],
      ),
    ],
    remark: hidden
      ? "A hidden key's score becomes −∞, before the softmax: e to the power of −∞ is 0."
      : "No key is hidden from this query.",
  };
}

function explainSoftmax(_, { masked, softmax }, { row }, chips) {
  const { isEmpty, shifted, powers, sum, weights } = softmax[row];
  const steps = isEmpty
    ? []
    : [
        ["less the largest", shifted.map(short)],
        ["e to that power", powers.map(short)],
      ];
  return {
    heading: ["Softmax over the row of ", chipOf("query", chips, row)],
    content: [
      lineTable(chips, ["masked", masked[row].map(short)], ...steps, [
        isEmpty ? "weight" : `÷ their sum, ${short(sum)}`,
        weights.map(short),
      ]),
    ],
    remark: isEmpty
      ? "There is nothing to attend to: the softmax would be 0/0, and the row gets zeros."
      : "Subtracting the largest changes no weight: it cancels in the quotient, and keeps e from overflowing.",
  };
}

function explainSum({ v }, { weights, output }, { row, column: index }, chips) {
  return {
    heading: ["Output for ", chipOf("query", chips, row), `, number ${index}`],
    content: [products(weights[row], "weight", column(v, index), "value", output[row][index])],
    remark: "A row of weights times a column of v: the values mixed, each by its weight.",
  };
}
