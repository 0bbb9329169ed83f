import { announce } from "./announce.js";
import { FEWEST, MOST, added, moved, nameOf, removed } from "./stops.js";
import { html, nothing, render } from "./vendor/lit-html.js";

/**
 * The stops of a walk in words, to be added, removed and put in another order.
 *
 * An empty first or last stop means the example that its field shows. Takes over the plain inputs that the server
 * wrote, also while the visitor types in one. Tells each change by an "input" event of its own.
 */
class StopList extends HTMLElement {
  #stops = ["", ""];
  #examples = ["", ""];
  #errors = {};
  #lengthOf = () => "";
  #dragged = null;

  connectedCallback() {
    if (this.dataset.ready !== undefined) return;
    const inputs = [...this.querySelectorAll("input")];
    const typedIn = inputs.indexOf(document.activeElement);
    const { selectionStart, selectionEnd } = inputs[typedIn] ?? {};
    this.#stops = inputs.map((input) => input.value);
    this.#examples = [inputs[0].placeholder, inputs.at(-1).placeholder];
    inputs.forEach((input, place) => {
      this.#errors[place] = input.parentElement.querySelector(".error").textContent;
    });
    this.replaceChildren();
    this.dataset.ready = "";
    this.#draw();
    if (typedIn < 0) return;
    this.focusOn(typedIn);
    document.activeElement.setSelectionRange(selectionStart, selectionEnd);
  }

  /** Sets the function that says of the words of a stop how long they are, if that matters. */
  set lengthOf(lengthOf) {
    this.#lengthOf = lengthOf;
    this.#draw();
  }

  /** What was typed. */
  get stops() {
    return [...this.#stops];
  }

  /** What the walk will have: what was typed, and where the ends are empty the examples. */
  get meant() {
    return this.#stops.map((stop, place) => (stop.trim() ? stop : this.#exampleAt(place)));
  }

  /** What an empty first and an empty last stop mean. */
  get examples() {
    return [...this.#examples];
  }

  set examples(examples) {
    this.#examples = examples;
    this.#draw();
  }

  #exampleAt(place) {
    if (place === 0) return this.#examples[0];
    return place === this.#stops.length - 1 ? this.#examples[1] : "";
  }

  set stops(stops) {
    this.#stops = stops.length >= FEWEST ? stops.slice(0, MOST) : ["", ""];
    this.#errors = {};
    this.#draw();
  }

  /** Shows what is wrong with a stop. */
  blame(place, message) {
    this.#errors[place] = message;
    this.#draw();
  }

  clearErrors() {
    this.#errors = {};
    this.#draw();
  }

  focusOn(place) {
    this.querySelector(`#stop-${place}`)?.focus();
  }

  #change(stops) {
    this.#stops = stops;
    this.#errors = {};
    this.#draw();
    this.dispatchEvent(new Event("input", { bubbles: true }));
  }

  #type(place, value) {
    this.#stops = this.#stops.with(place, value);
    delete this.#errors[place];
    this.#draw();
  }

  #add() {
    const { stops, place } = added(this.#stops);
    this.#change(stops);
    this.focusOn(place);
    announce(`Stop ${place + 1} of ${stops.length} added.`);
  }

  #remove(place) {
    this.#change(removed(this.#stops, place));
    this.focusOn(Math.min(place, this.#stops.length - 1));
    announce(`${this.#stops.length} stops.`);
  }

  #move(place, to) {
    const goal = Math.min(Math.max(to, 0), this.#stops.length - 1);
    if (goal === place) return;
    this.#reorder(place, goal);
    this.querySelector(`[data-grip="${goal}"]`)?.focus();
    this.#announcePlace(goal);
  }

  /** Moves a stop; an example moves, too: as one if there are only two stops, or else as if it had been typed. */
  #reorder(from, to) {
    if (this.#stops.length === FEWEST) this.#examples = this.#examples.toReversed();
    this.#change(moved(this.#stops.length === FEWEST ? this.#stops : this.meant, from, to));
  }

  #announcePlace(place) {
    announce(`${this.meant[place] || "The empty stop"} is now stop ${place + 1} of ${this.#stops.length}.`);
  }

  #swap() {
    this.#reorder(0, 1);
    announce(`From ${this.meant[0]} to ${this.meant[1]}.`);
  }

  #onGripKey(event, place) {
    const to = { ArrowUp: place - 1, ArrowDown: place + 1, Home: 0, End: this.#stops.length - 1 }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.#move(place, to);
  }

  #onGrip(event, place) {
    if (event.button) return;
    event.preventDefault(); // no text is selected on the way
    const grip = event.currentTarget;
    grip.focus();
    grip.setPointerCapture(event.pointerId);
    this.#dragged = place;
    this.#draw();
  }

  #onDrag(event) {
    if (this.#dragged === null) return;
    const rows = [...this.querySelectorAll(".stop")];
    const over = rows.findIndex((row) => event.clientY < row.getBoundingClientRect().bottom);
    const goal = over < 0 ? rows.length - 1 : over;
    if (goal === this.#dragged) return;
    const from = this.#dragged;
    this.#dragged = goal;
    this.#reorder(from, goal);
    // The pointer stays with the element it was captured by; the words are what moves.
  }

  #onDrop() {
    if (this.#dragged === null) return;
    const place = this.#dragged;
    this.#dragged = null;
    this.#draw();
    this.querySelector(`[data-grip="${place}"]`)?.focus();
    this.#announcePlace(place);
  }

  #draw() {
    if (this.dataset.ready === undefined) return;
    const count = this.#stops.length;
    render(
      html`<ol class="stops" role="list" @pointermove=${(event) => this.#onDrag(event)} @pointerup=${() => this.#onDrop()} @pointercancel=${() => this.#onDrop()}>
          ${this.#stops.map((stop, place) => this.#row(stop, place, count))}
        </ol>
        <button type="button" class="plain add" ?hidden=${count >= MOST} @click=${() => this.#add()}>Add a stop</button>
        <button type="button" class="plain" ?hidden=${count > FEWEST} @click=${() => this.#swap()}>Swap</button>`,
      this,
    );
  }

  #row(stop, place, count) {
    const words = stop.trim() || `stop ${place + 1}`;
    const error = this.#errors[place];
    return html`<li class=${place === this.#dragged ? "stop dragged" : "stop"}>
      <button type="button" class="grip" data-grip=${place} aria-label=${`Move ${words}: arrow keys, or drag`}
        @keydown=${(event) => this.#onGripKey(event, place)} @pointerdown=${(event) => this.#onGrip(event, place)}></button>
      <label for=${`stop-${place}`}>${nameOf(place, count)}</label>
      <input id=${`stop-${place}`} name="prompts" dir="auto" autocomplete="off" autocapitalize="none"
        spellcheck="false" list="subjects" placeholder=${this.#exampleAt(place) || "anything"}
        aria-describedby=${`stop-${place}-length stop-${place}-error`} aria-invalid=${error ? "true" : nothing} .value=${stop}
        @input=${(event) => this.#type(place, event.target.value)} />
      ${count > FEWEST ? this.#actions(words, place, count) : nothing}
      <p class="hint" id=${`stop-${place}-length`}>${this.#lengthOf(stop)}</p>
      <p class="error" id=${`stop-${place}-error`} role="alert">${error ?? ""}</p>
    </li>`;
  }

  #actions(words, place, count) {
    return html`<span class="stop-actions">
        <button type="button" class="tiny" aria-label=${`Move ${words} up`} ?disabled=${place === 0} @click=${() => this.#move(place, place - 1)}><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M8 13V3M4 7l4-4 4 4" /></svg></button>
        <button type="button" class="tiny" aria-label=${`Move ${words} down`} ?disabled=${place === count - 1} @click=${() => this.#move(place, place + 1)}><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M8 3v10M4 9l4 4 4-4" /></svg></button>
        <button type="button" class="tiny" aria-label=${`Remove ${words}`} @click=${() => this.#remove(place)}><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M4 4l8 8M12 4l-8 8" /></svg></button>
      </span>`;
  }
}

customElements.define("stop-list", StopList);
