// Settings that the kernel answers to: what the learner moves is asked for at once, and shown before the answer is there.

// `changed` is called whenever something may look different.
function openSettings(model, el, changed) {
  const line = openLine(model, el, changed);
  model.on("change:settings change:result", changed);
  return {
    line,
    result: () => model.get("result"),
    settings: () => ({ ...model.get("settings"), ...line.pending("set")?.settings }),
    set: (changes) => line.ask({ type: "set", settings: { ...line.pending("set")?.settings, ...changes } }),
    close() {
      model.off("change:settings change:result", changed);
      line.close();
    },
  };
}

// A slider over `values`, or over [lowest, highest] on a logarithmic scale if `isLog`; `say` writes a value.
function sliderRow(view, { name, label, values, range, say, set = (value) => view.set({ [name]: value }) }) {
  const input = node("input", { type: "range", min: 0, max: values ? values.length - 1 : 100, step: 1 });
  const said = node("b");
  const element = node("label", { className: "slider" }, node("span", { textContent: label }), input, said);
  const [low, high] = (range ?? []).map(Math.log10);
  const valueAt = (place) => (values ? values[place] : Number((10 ** (low + (place / 100) * (high - low))).toPrecision(2)));
  const placeOf = (value) => (values ? nearest(values, value) : Math.round((100 * (Math.log10(value) - low)) / (high - low)));
  input.addEventListener("input", () => set(valueAt(input.valueAsNumber)));

  function draw() {
    const value = view.settings()[name];
    input.value = placeOf(value);
    said.textContent = input.ariaValueText = say(value);
  }
  return { element, draw };
}

function nearest(values, wanted) {
  const away = values.map((value) => Math.abs(Math.log(value / wanted)));
  return away.indexOf(Math.min(...away));
}

// Buttons of which one is chosen: `choices` are [value, text].
function choiceRow(view, { label, choices, chosen, choose }) {
  const buttons = choices.map(([value, textContent]) => node("button", { type: "button", textContent, onclick: () => choose(value) }));
  const modes = node("div", { className: "modes", role: "group", ariaLabel: label }, ...buttons);
  const draw = () => buttons.forEach((button, i) => (button.ariaPressed = String(choices[i][0] === chosen())));
  return { element: modes, draw };
}

// What went wrong, if anything.
function errorPanel(view) {
  const element = node("p", { className: "error", role: "alert" });
  return { element, draw: () => (element.textContent = view.line.error) };
}

// Three significant digits, thousands separated.
const short = (number) => Number(number.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 20 });
