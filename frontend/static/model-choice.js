/** The model of a walk, and what the form offers for it: sizes, samplers, usual steps and guidance. */

const option = (value, text, chosen) => {
  const made = new Option(text, value);
  made.defaultSelected = made.selected = value === chosen;
  return made;
};

/** Shows a field, or hides one that would have no effect. */
function show(field, has) {
  field.closest(".field").hidden = !has;
  if (!has) field.value = "";
}

/** Options of a size, each [value, text]: those of the model, and the current one of a walk that is varied. */
export function sizeOptions({ sizes }, current = "") {
  const options = sizes.map(([width, height]) => [`${width}x${height}`, `${width} × ${height}`]);
  if (current && !options.some(([value]) => value === current)) options.push([current, current.replace("x", " × ")]);
  return options;
}

/** Which of the options keeps what was chosen; the first where the model does not offer it. */
export const kept = (options, chosen) => (options.some(([value]) => value === chosen) ? chosen : options[0][0]);

/**
 * Lets a form choose among the models that the page names.
 *
 * `models` holds {name, knows, sizes, schedulers, steps, fewest_steps, most_steps, guidance, guided, negative_above,
 * tokens, windows, pace}, as the page's JSON has them.
 */
export function modelChoice(form, models) {
  const field = form.elements.namedItem("model");
  const asked = { model: field?.value, size: form.elements.size.value }; // by the page, which may vary a walk
  const chosen = () => models.find(({ name }) => name === field?.value) ?? models[0];

  /** Offers what the chosen model can do; what does not suit it falls back to its own. */
  function offer() {
    const { knows, steps, guidance, guided, negative_above: negativeAbove, schedulers } = chosen();
    const hint = document.getElementById("model-hint");
    hint.hidden = !knows;
    hint.querySelector("b").textContent = chosen().name;
    hint.querySelector("span").textContent = knows;
    Object.assign(form.elements.steps, { placeholder: steps, min: chosen().fewest_steps, max: chosen().most_steps });
    form.elements.guidance.placeholder = guidance;
    const { size, scheduler } = form.elements;
    const sizes = sizeOptions(chosen(), chosen().name === asked.model ? asked.size : "");
    size.replaceChildren(...sizes.map(([value, text]) => option(value, text, kept(sizes, size.value))));
    size.closest(".field").hidden = sizes.length < 2;
    const samplers = [["", "The model’s own"], ...schedulers.map((name) => [name, name.replaceAll("_", " ")])];
    scheduler.replaceChildren(...samplers.map(([value, text]) => option(value, text, kept(samplers, scheduler.value))));
    show(scheduler, schedulers.length > 0);
    show(form.elements.guidance, guided);
    show(form.elements.negative_prompt, negativeAbove !== null);
  }

  if (models.length > 1) {
    field.addEventListener("change", () => {
      form.elements.size.value = form.elements.steps.value = form.elements.guidance.value = "";
      offer();
    });
  }
  return { chosen, offer: models.length > 1 ? offer : () => {} };
}
