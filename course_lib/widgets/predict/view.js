// The browser's half of Predict: a radio group or a number, frozen when the answer is revealed.

import { node } from "../shared/base.js";
import { card, prose, results } from "../shared/card.js";

const VERDICT = {
  right: "As you predicted.",
  close: "Close.",
  other: "Not as you predicted: what did you expect to happen?",
  skipped: "",
};

export default { render };

function render({ model, el }) {
  const field = model.get("choices").length ? choiceField(model) : numberField(model);
  const note = node("p", { className: "muted", ariaLive: "polite" });
  const outcome = node("div", { ariaLive: "polite" });
  const root = card("div", "predict");
  root.append(field.element, note, outcome);
  el.append(root);

  function update() {
    const isRevealed = model.get("revealed");
    field.update();
    note.hidden = isRevealed;
    const isChosen = model.get("prediction") !== null;
    note.textContent = isChosen
      ? "Noted. You may change it until the answer is shown."
      : "Predict before you run on, or skip it.";
    outcome.replaceChildren(...(isRevealed ? answer(model) : []));
  }
  const changes = "change:prediction change:revealed change:answer change:because";
  model.on(changes, update);
  update();
  return () => model.off(changes, update);
}

function choiceField(model) {
  const name = `predict-${crypto.getRandomValues(new Uint32Array(1))}`; // each view is a radio group of its own
  const choices = model.get("choices").map((choice) => {
    const input = node("input", { type: "radio", name, value: choice, onchange: () => predict(model, choice) });
    const mark = node("span", { className: "mark" });
    return { choice, input, mark, label: node("label", {}, input, prose("span", choice), mark) };
  });
  const element = node("fieldset", {}, prose("legend", model.get("question")), ...choices.map(({ label }) => label));

  function update() {
    const isRevealed = model.get("revealed");
    element.disabled = isRevealed;
    for (const { choice, input, mark, label } of choices) {
      const isAnswer = isRevealed && choice === model.get("answer");
      input.checked = choice === model.get("prediction");
      label.classList.toggle("own", input.checked);
      label.classList.toggle("answer", isAnswer);
      mark.textContent = [isRevealed && input.checked && "you said", isAnswer && "✓ it is"].filter(Boolean).join(" · ");
    }
  }
  return { element, update };
}

function numberField(model) {
  const input = node("input", { type: "number", step: "any", placeholder: "a number" });
  input.addEventListener("input", () =>
    predict(model, Number.isFinite(input.valueAsNumber) ? input.valueAsNumber : null),
  );
  const unit = node("span", { className: "muted", textContent: model.get("unit") });
  const element = node("label", {}, prose("strong", model.get("question")), input, unit);

  function update() {
    const prediction = model.get("prediction");
    input.disabled = model.get("revealed");
    input.classList.toggle("own", prediction !== null);
    if (prediction !== null && input.valueAsNumber !== prediction) input.valueAsNumber = prediction;
  }
  return { element, update };
}

function predict(model, value) {
  model.set("prediction", value);
  model.save_changes();
}

function answer(model) {
  /** @type {[term: string, value: string, className: string]} */
  const said = model.get("said") ? ["You said", model.get("said"), "own"] : ["You", "skipped this one", "muted"];
  const words = [VERDICT[model.get("verdict")], model.get("because")].filter(Boolean);
  return [results(said, ["It is", model.get("answer"), ""]), ...words.map((text) => prose("p", text))];
}
