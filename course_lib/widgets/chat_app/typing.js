// Texts of several lines: Enter says them, Shift+Enter begins a new line, and the notebook hears neither.

/**
 * @param {HTMLTextAreaElement} input
 * @param {() => void} enter
 * @param {() => void} leave
 */
export function keepTyping(input, enter, leave) {
  const keep = (event) => {
    if (event.ctrlKey || event.metaKey) return;
    event.stopPropagation();
    input.toggleAttribute("data-lm-suppress-shortcuts", true);
  };
  input.addEventListener("keyup", keep);
  input.addEventListener("keydown", (event) => {
    keep(event);
    if (event.key === "Escape") leave();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    enter();
  });
}
