import { createWalk } from "./api.js";
import { fromTemplate } from "./dom.js";
import { makeSketch } from "./sketch.js";

const KEY = "momalisa.words";
const FIELDS = { "prompts[0]": "from", "prompts[1]": "to", frames: "frames" };

/** The words in the form: typed ones outlive a reload; a first visit starts with an example. */
export const words = {
  read() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(KEY));
      if (kept) return kept;
    } catch { /* unreadable or forbidden: start afresh */ }
    return { from: "a giraffe", to: "a battleship", frames: "24" };
  },
  keep(values) {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(values));
    } catch { /* a browser that keeps nothing still makes walks */ }
  },
};

/** The form, with its two names sketched on the wall. onMade(walk) when the API has taken it. */
export function showForm({ stage, label, onMade }) {
  const form = fromTemplate("form-view");
  const sketch = makeSketch();
  const { from, to, frames } = form.elements;
  const submit = form.querySelector("[type=submit]");
  const empty = document.createElement("div");
  empty.className = "picture empty";
  empty.append(sketch.element);
  stage.replaceChildren(empty);
  label.append(form);
  document.title = "MoMALisa";

  const draw = () => {
    const named = [from, to].map((input) => input.value.trim());
    sketch.show([named[0] || from.placeholder, named[1] || to.placeholder], frames.valueAsNumber, named.map((name) => !name));
  };
  const values = () => ({ from: from.value, to: to.value, frames: frames.value });

  for (const [name, value] of Object.entries(words.read())) if (form.elements[name]) form.elements[name].value = value;
  draw();

  form.addEventListener("input", ({ target }) => {
    setError(target.name, "");
    words.keep(values());
    draw();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });

  function setError(name, message) {
    const input = form.elements[name];
    const place = form.querySelector(`#${input?.matches("input") ? name : "form"}-error`);
    place.textContent = message;
    if (message) input?.setAttribute("aria-invalid", "true");
    else input?.removeAttribute("aria-invalid");
  }

  function mistakes() {
    const found = [from, to].filter((input) => !input.value.trim()).map((input) => [input.name, "Name an artwork: anything you can say."]);
    return frames.validity.valid ? found : [...found, ["frames", "A whole number from 2 to 240."]];
  }

  function showErrors(errors) {
    for (const name of ["from", "to", "frames", "form"]) {
      setError(name, errors.filter(([field]) => field === name).map(([, message]) => message).join("\n"));
    }
    form.querySelector("[aria-invalid]")?.focus();
  }

  async function send() {
    if (submit.ariaDisabled === "true") return;
    showErrors(mistakes());
    if (mistakes().length) return;
    words.keep(values());
    submit.ariaDisabled = "true";
    try {
      const { body } = await createWalk([from.value.trim(), to.value.trim()], frames.valueAsNumber);
      if (form.isConnected) onMade(body);
    } catch (error) {
      if (error.name !== "ApiError") throw error;
      showErrors(errorsOf(error));
    } finally {
      submit.ariaDisabled = "false";
    }
  }

  return { focus: () => from.focus(), leave: () => form.remove() };
}

/** [[form field, message], …] of an ApiError; "form" where it names no field of ours. */
function errorsOf(error) {
  if (error.fields.length) {
    return error.fields.map(({ field, message }) => {
      const name = FIELDS[field] ?? "form";
      return [name, name === "form" && field ? `${field}: ${message}` : message.replace(/^./, (first) => first.toUpperCase())];
    });
  }
  const seconds = Math.ceil(error.retryAfter ?? 0);
  const later = seconds ? ` Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.` : "";
  return [["form", error.message + later]];
}
