import { announce } from "./announce.js";
import { ApiError, cancelWalk, changeWalk, createWalk, deleteWalk, newKey } from "./api.js";
import { finer, refined } from "./request-body.js";
import { html, nothing } from "./vendor/lit-html.js";
import { secondsWords } from "./wait.js";

/** What can be done with a walk: remix, refine, copy its address, and, if it is one's own, show it to all or not, cancel or remove it. */
export class WalkActions {
  #asked = ""; // the action that waits to be confirmed
  #busy = "";
  #error = "";
  #copied = false;
  #keys = new Map(); // frames → the key of the refinement that was asked for

  /** `changed()` asks for a new drawing, `changed(walk)` tells what has become of the walk. */
  constructor(changed) {
    this.changed = changed;
  }

  template(walk) {
    const more = finer(walk);
    return html`<div class="actions">
        <a href=${`/?from=${walk.id}`}>${walk.done && walk.status !== "succeeded" ? "Try again" : "Remix"}</a>
        ${walk.status === "succeeded" && more
          ? html`<button type="button" class="plain" @click=${() => this.#refine(walk, more)}>Refine to ${more} frames</button>`
          : nothing}
        <button type="button" class="plain" @click=${() => this.#copy()}>${this.#copied ? "Link copied" : "Copy link"}</button>
        ${walk.mine ? html`<button type="button" class="plain" @click=${() => this.#show(walk)}>${walk.public ? "Make private" : "Make public"}</button>` : nothing}
        ${walk.mine ? this.#own(walk) : nothing}
      </div>
      <p class="error" role="alert">${this.#error}</p>`;
  }

  #own(walk) {
    const action = walk.done ? "remove" : "cancel";
    const [word, question, act] = walk.done
      ? ["Remove", "Remove it for good?", () => this.#remove(walk)]
      : ["Cancel", "Stop painting it?", () => this.#cancel(walk)];
    if (this.#asked !== action) {
      return html`<button type="button" class="plain danger" @click=${() => this.#ask(action)}>${word}</button>`;
    }
    return html`<span class="confirm" role="group" aria-label=${question}>${question}
      <button type="button" class="plain danger confirm-yes" @click=${act}>Yes</button>
      <button type="button" class="plain" @click=${() => this.#ask("")}>No</button></span>`;
  }

  #ask(action) {
    this.#asked = action;
    this.#error = "";
    this.changed();
    document.querySelector(action ? ".confirm-yes" : ".danger")?.focus();
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(location.href);
      this.#copied = true;
      announce("The link to this walk is copied.");
    } catch {
      this.#error = `The browser does not let this page copy. The link is ${location.href}`;
    }
    this.changed();
  }

  async #refine(walk, frames) {
    if (!this.#keys.has(frames)) this.#keys.set(frames, newKey());
    await this.#do(async () => {
      const { body } = await createWalk(refined(walk, frames), this.#keys.get(frames));
      location.assign(`/walks/${body.id}`);
    });
  }

  #show(walk) {
    return this.#do(async () => {
      const { body } = await changeWalk(walk.id, { public: !walk.public });
      announce(body.public ? "Everyone may see this walk." : "Only you may see this walk.");
      this.changed(body);
    });
  }

  #cancel(walk) {
    return this.#do(async () => {
      const { body } = await cancelWalk(walk.id);
      this.changed(body);
    });
  }

  #remove(walk) {
    return this.#do(async () => {
      await deleteWalk(walk.id);
      location.assign("/gallery?mine=true");
    });
  }

  async #do(action) {
    if (this.#busy) return;
    this.#busy = true;
    this.#error = "";
    try {
      await action();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#error = error.retryAfter ? `${error.message} Try again in ${secondsWords(error.retryAfter)}.` : error.message;
    } finally {
      this.#busy = false;
      this.#asked = "";
      this.changed();
    }
  }
}
