import "./motion.js";
import "./plan-drawing.js";
import "./stop-list.js";
import { announce } from "./announce.js";
import { ApiError, createWalk, newKey } from "./api.js";
import { draftOf } from "./draft.js";
import { estimate, roughly } from "./estimate.js";
import { ExampleWalk } from "./example-walk.js";
import { changed, formValues, settingsFor, settingsOf } from "./file-settings.js";
import { modelChoice } from "./model-choice.js";
import { anotherPair } from "./pairs.js";
import { lengthOf } from "./prompt-length.js";
import { bodyOf, fieldOf, MOST_FRAMES } from "./request-body.js";
import { changedFields, resetFields } from "./settings-changes.js";
import { offerSubjects } from "./subjects.js";
import { secondsWords } from "./wait.js";

const form = document.getElementById("form");
const list = form.querySelector("stop-list");
const plan = document.querySelector("plan-drawing");
const example = new ExampleWalk(document.getElementById("frame"));
const settingsFields = form.querySelectorAll(".settings input, .settings select");
const reset = document.getElementById("reset");
const undo = document.getElementById("undo");
const submit = form.querySelector("[type=submit]");
const line = document.getElementById("frames-line");
let source = form.elements.from_walk?.value ?? null; // the walk that this one is a remix of
const at = new URLSearchParams(location.search).get("at"); // the stop of that walk from which this one walks on
let draft = draftOf(at === null ? source : `${source}@${at}`);
const models = JSON.parse(document.getElementById("models").textContent);
const pairs = JSON.parse(document.getElementById("pairs").textContent);
const model = modelChoice(form, models);
const usual = submit.textContent;
const [seed] = crypto.getRandomValues(new Uint32Array(1)); // of a remix that asks for a new one
let key = newKey();
let sent = ""; // the body that the key belongs to
let countdown;
let pair = pairs[0]; // whose finished walk is the example
let typed = null; // the stops before others took their place
const written = list.stops; // by the server
const showsSource = example.seen; // and not the plan, while the stops are those
let carriedBySource = null; // the settings of the source, and what the form asked for when it was filled with them
let carried = null; // those, or the settings of a file that was put here

const values = () => ({
  ...Object.fromEntries(new FormData(form)),
  ...Object.fromEntries(["exact", "large", "public"].map((name) => [name, form.elements[name].checked])),
  prompts: list.stops,
});

const request = () => bodyOf({ ...values(), prompts: list.meant }, { usual: usually(), seed });

/** What the draft of a new walk has beside the fields. */
const proposed = () => ({ pair: { name: pair.name, prompts: list.examples }, typed });

/** Keeps the draft; a remix gets the settings of its source from the page. */
const keep = () => draft.keep(source ? values() : { ...values(), ...proposed(), carried });

/** What the number fields mean that are empty and may not be null. */
const usually = () => Object.fromEntries(["fps", "hold"].map((name) => [name, Number(form.elements[name].placeholder)]));

/** Puts a draft into the form; what it does not name stays as the server wrote it. */
function fill(kept) {
  for (const [name, value] of Object.entries(kept)) {
    const field = form.elements.namedItem(name);
    if (name === "prompts") list.stops = value;
    else if (field?.type === "hidden") continue;
    else if (field?.type === "checkbox") field.checked = value;
    else if (name === "size" && value && ![...field.options].some((option) => option.value === value)) {
      field.add(new Option(value.replace("x", " × "), value, false, true));
      field.closest(".field").hidden = false;
    } else if (field instanceof HTMLSelectElement && ![...field.options].some((option) => option.value === value)) continue;
    else if (field instanceof HTMLElement) field.value = value;
    if (name === "model") model.offer();
  }
}

const lengthHere = (text) => lengthOf(text, model.chosen(), Number(list.dataset.most));

function draw() {
  const { frames, loop, negative_prompt: negative } = values();
  list.lengthOf = (text) => lengthHere(text).words;
  if (negative !== undefined) document.getElementById("negative_prompt-hint").textContent = lengthHere(negative).words;
  plan.update({ stops: list.stops, examples: list.examples, frames: Number(frames), loop });
  if (!source) example.hang({ name: pair.name, prompts: list.examples });
  example.show(source ? showsSource && String(list.stops) === String(written) : list.stops.every((stop) => !stop.trim()));
  undo.hidden = !typed;
  if (document.activeElement !== line) line.value = frames;
  line.setAttribute("aria-valuetext", `${frames} frames`);
  showChanges();
  showEstimate();
}

function showChanges() {
  const { length } = changedFields(settingsFields);
  document.getElementById("changes").textContent = length ? ` · ${length} changed` : "";
  reset.hidden = !length;
}

function showEstimate() {
  const { frames, loop, exact, steps, size } = values();
  const legs = list.meant.filter(Boolean).length - (loop !== "closed"); // empty stops on the way are not sent
  const [width, height] = size.split("x").map(Number);
  const usualSteps = Number(form.elements.steps.placeholder);
  const shown = document.getElementById("estimate");
  const seconds = estimate(model.chosen().pace ?? {}, { frames: Number(frames), legs, exact, settings: { width, height, steps: Number(steps) || usualSteps } });
  shown.textContent = seconds === null ? "" : `Takes ${roughly(seconds)} once a painter is free.`;
}

/** Writes an error beside its field, or under the button where no field is to blame. */
function blame(field, message) {
  const { name, place } = fieldOf(field);
  const sentence = message.replace(/^./u, (first) => first.toUpperCase()).replace(/[^.!?…]$/u, "$&.");
  if (name === "stop") return list.blame(place, sentence);
  const input = form.elements.namedItem(name);
  const beside = document.getElementById(`${name}-error`);
  if (input instanceof HTMLElement && beside) {
    input.setAttribute("aria-invalid", "true");
    beside.textContent = sentence;
    const folded = input.closest("details");
    if (folded) folded.open = true;
  } else {
    const place = document.getElementById("form-error");
    place.textContent = [place.textContent, name && name !== "prompts" ? `${name}: ${message}.` : sentence].filter(Boolean).join("\n");
  }
}

function clear(field) {
  field.removeAttribute("aria-invalid");
  const beside = document.getElementById(`${field.id}-error`);
  if (beside) beside.textContent = "";
}

function clearErrors() {
  clearInterval(countdown);
  submit.textContent = usual;
  list.clearErrors();
  document.getElementById("form-error").textContent = "";
  for (const field of form.elements) if (field.name !== "prompts") clear(field); // the list clears its own
}

/** Mistakes that need no server to be seen: [[field, message], …]. */
function mistakes() {
  const { prompts, frames, negative_prompt: negative } = values();
  const texts = [...prompts.map((stop, place) => [`prompts[${place}]`, stop]), ["negative_prompt", negative ?? ""]];
  const found = texts.filter(([, text]) => lengthHere(text).refused).map(([field]) => [field, "Shorten it, please."]);
  const stops = list.meant.filter(Boolean).length;
  if (!/^\d+$/.test(frames) || Number(frames) < Math.max(2, stops) || Number(frames) > MOST_FRAMES) {
    found.push(["frames", stops > 2 ? `A whole number from ${stops}, one for each stop, to ${MOST_FRAMES}.` : `A whole number from 2 to ${MOST_FRAMES}.`]);
  }
  for (const field of form.querySelectorAll(".settings input[type=number]")) {
    if (!field.validity.valid) found.push([field.name, field.max ? `A number from ${field.min} to ${field.max}.` : "A number."]);
  }
  return found;
}

/** Counts down on the button; the sentence beside it is said once. */
function waitFor(seconds) {
  const ends = Date.now() + 1000 * seconds;
  const show = () => {
    const left = Math.ceil((ends - Date.now()) / 1000);
    submit.textContent = left > 0 ? `${usual} in ${left} s` : usual;
    if (left > 0) return;
    clearInterval(countdown);
    document.getElementById("form-error").textContent = "You can send it again now.";
  };
  clearInterval(countdown);
  countdown = setInterval(show, 250);
  show();
}

function refuse(error) {
  if (error.fields.length) error.fields.forEach(({ field, message }) => blame(field, message));
  else if (error.retryAfter) {
    blame("", `${error.message} Your walk stays here; send it again in ${secondsWords(error.retryAfter)}.`);
    waitFor(error.retryAfter);
  } else blame("", error.message);
  form.querySelector("[aria-invalid=true]")?.focus();
}

async function send() {
  if (submit.getAttribute("aria-disabled") === "true") return;
  clearErrors();
  const found = mistakes();
  if (found.length) {
    found.forEach(([field, message]) => blame(field, message));
    return form.querySelector("[aria-invalid=true]")?.focus();
  }
  const asked = request();
  const body = carried ? changed(carried.settings, carried.filled, asked) : asked;
  if (JSON.stringify(body) !== sent) [key, sent] = [newKey(), JSON.stringify(body)]; // the same walk sent twice is one walk
  keep();
  submit.setAttribute("aria-disabled", "true");
  submit.textContent = "Sending";
  try {
    const { body: walk } = await createWalk(body, key);
    if (source) draft.drop(); // a remix that was made is a walk of its own
    else draft.keep({ ...values(), ...proposed() }); // the next walk has what the form shows, and nothing else of the file
    location.assign(`/walks/${walk.id}`);
  } catch (error) {
    submit.textContent = usual;
    submit.removeAttribute("aria-disabled");
    if (!(error instanceof ApiError)) throw error;
    refuse(error);
  }
}

form.addEventListener("input", ({ target }) => {
  if (target === line) form.elements.frames.value = line.value;
  if (target.matches("input, select") && target.name !== "prompts") clear(target === line ? form.elements.frames : target);
  keep();
  draw();
});
form.addEventListener("change", ({ target }) => {
  if (target.name !== "model") return; // which has changed other fields since its "input"
  keep();
  draw();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    send();
  }
});
addEventListener("pageshow", () => {
  submit.textContent = usual; // back from the walk, the page is as it was left: sending
  submit.removeAttribute("aria-disabled");
});

/** Makes the form one for a new walk instead of a remix. */
function leaveSource() {
  form.elements.from_walk.remove();
  source = null;
  draft = draftOf(null);
  carriedBySource = null;
  another.hidden = false;
  form.querySelector(".lead").textContent = form.dataset.lead;
  document.title = "MoMALisa";
  history.replaceState(null, "", "/"); // so that a reload shows this form again
}

/** Fills the form with the settings that a file of a walk carries. */
async function take(file) {
  clearErrors();
  const found = settingsOf(new Uint8Array(await file.arrayBuffer()));
  if (!found) return blame("", `There are no settings of a whole walk in ${file.name}. Choose a file of a walk that was made here.`);
  const settings = settingsFor(models, found);
  setAside();
  if (source) leaveSource();
  const names = [...form.elements].map(({ name }) => name).filter((name) => name && !["prompts", "public", "from_walk", "size"].includes(name));
  fill(formValues(settings, names));
  carried = { settings, filled: request() };
  keep();
  draw();
  if (settings !== found) blame("", `The model of ${file.name}, ${found.model}, is not here; this walk will use the one in the form.`);
  announce(`The form has the settings of ${file.name}.`);
}

const like = document.getElementById("like");
like.addEventListener("change", () => {
  if (like.files.length) take(like.files[0]);
  like.value = ""; // so that the same file can be chosen again
});
document.getElementById("like-button").hidden = false;
document.getElementById("like-button").addEventListener("click", () => like.click());
const withFile = (event) => event.dataTransfer?.types.includes("Files");
form.addEventListener("dragover", (event) => withFile(event) && event.preventDefault());
form.addEventListener("drop", (event) => {
  if (!withFile(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});

/** Keeps what was typed for `undo`. */
function setAside() {
  if (list.stops.some((stop) => stop.trim())) typed = list.stops;
}

const another = document.getElementById("another");
another.addEventListener("click", () => {
  setAside();
  pair = anotherPair(pairs, pair, Math.random());
  list.examples = pair.prompts;
  list.stops = ["", ""];
  keep();
  draw();
  announce(`From ${pair.prompts[0]} to ${pair.prompts[1]}.`);
});
undo.addEventListener("click", () => {
  const before = typed;
  typed = null;
  setAside();
  list.stops = before;
  keep();
  draw();
  list.focusOn(0);
});

reset.addEventListener("click", () => {
  clearErrors();
  resetFields(settingsFields);
  model.offer();
  carried = carriedBySource;
  keep();
  draw();
  form.querySelector("summary").focus();
  announce("The settings are as they were.");
});

list.addEventListener("focusin", () => offerSubjects(document.getElementById("subjects"), model.chosen().name));

line.hidden = false;
const ofSource = document.getElementById("settings");
if (ofSource) carriedBySource = { settings: JSON.parse(ofSource.textContent), filled: request() };
carried = carriedBySource;
const kept = draft.read();
model.offer();
if (kept) {
  pair = pairs.find(({ name }) => name === kept.pair?.name) ?? pair;
  if (kept.pair?.name === pair.name) list.examples = kept.pair.prompts;
  typed = kept.typed ?? null;
  fill(kept);
  carried = kept.carried ?? carried;
  if (new URLSearchParams(location.search).has("to")) { // the address names a stop, for which what was typed is set aside
    setAside();
    list.stops = written;
    keep();
    history.replaceState(null, "", "/"); // so that a reload shows this form again
  }
}
draw();
