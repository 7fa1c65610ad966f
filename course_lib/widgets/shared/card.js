// What the two small cards share: Predict and ExerciseCheck.

import { keepKeys, node } from "./base.js";

/**
 * An empty card, whose keys stay inside it.
 * @param {keyof HTMLElementTagNameMap} tag
 * @param {string} className
 */
export function card(tag, className) {
  const element = node(tag, { className: `course-widget course-card ${className}` });
  keepKeys(element);
  return element;
}

/**
 * A text with what stands between backticks as code: prose("p", "the `mask` of this row").
 * @param {keyof HTMLElementTagNameMap} tag
 * @param {string} text
 */
export function prose(tag, text) {
  const parts = text.split("`");
  return node(tag, {}, ...parts.map((part, i) => (i % 2 ? node("code", { textContent: part }) : part)));
}

/**
 * A list of results side by side, [term, value, class] each; those without a value are left out.
 * @param {[term: string, value: string, className: string][]} rows
 */
export function results(...rows) {
  const shown = rows.filter(([, value]) => value);
  return node(
    "dl",
    {},
    ...shown.map(([term, value, className]) =>
      node("div", { className }, node("dt", { textContent: term }), prose("dd", value)),
    ),
  );
}
