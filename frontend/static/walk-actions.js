import { announce } from "./announce.js";
import { ApiError, cancelWalk, changeWalk, createWalk, deleteWalk, newKey, readEmbed } from "./api.js";
import { commandOf } from "./recipe.js";
import { finer, refined } from "./request-body.js";
import { html, nothing } from "./vendor/lit-html.js";
import { secondsWords } from "./wait.js";
import { titleOf } from "./wording.js";

const COPIED = { link: "The link to this walk is copied.", recipe: "The command that makes this walk is copied.", embed: "The code to embed this walk is copied." };
const COPIED_FOR = 4000; // milliseconds for which a button says so
const PATIENCE = 1000; // milliseconds until the link is shared instead of the film: a browser forgets who pressed the button

const short = (words) => (words.length > 40 ? `${words.slice(0, 39).trimEnd()}…` : words);
const addressOf = (walk) => new URL(walk.urls.web, location.href).href;

/** What can be done with a walk: make another of it, share it, and, if it is one's own, show it to all or not, cancel or remove it. */
export class WalkActions {
  #asked = ""; // the action that waits to be confirmed
  #busy = false;
  #error = "";
  #copied = ""; // what was copied a moment ago
  #reset; // the timer that forgets it
  #code = ""; // to embed the walk, while it is shown
  #keys = new Map(); // frames → the key of the refinement that was asked for

  /** `changed()` asks for a new drawing, `changed(walk)` tells what has become of the walk. */
  constructor(changed) {
    this.changed = changed;
  }

  /** `stop` is the one from which it may be walked on, -1 for the last; `hidden` tells that an operator hides the walk. */
  template(walk, stop, { hidden }) {
    const at = stop < 0 ? walk.prompts.length - 1 : stop;
    const more = finer(walk);
    const there = walk.status === "succeeded";
    const embeds = there && walk.public && !hidden && /^https?:/.test(walk.urls.web); // the server knows its own address
    const plain = (words, act) => html`<button type="button" class="plain" @click=${act}>${words}</button>`;
    const copy = (what, words, done, text) => plain(this.#copied === what ? done : words, () => this.#copy(what, text()));
    return html`<div class="actions">
        <a href=${`/?from=${walk.id}`}>${walk.done && !there ? "Try again" : "Remix"}</a>
        ${there ? html`<a class="onward" href=${`/?from=${walk.id}&at=${at}`}>Walk on from <bdi>${short(walk.prompts[at])}</bdi></a>` : nothing}
        ${there && more ? plain(`Refine to ${more} frames`, () => this.#refine(walk, more)) : nothing}
        ${navigator.share ? plain("Share", () => this.#share(walk)) : nothing}
        ${copy("link", "Copy link", "Link copied", () => addressOf(walk))}
        ${copy("recipe", "Copy recipe", "Recipe copied", () => commandOf(walk))}
        ${embeds ? html`<button type="button" class="plain" aria-expanded=${this.#code !== ""} @click=${() => this.#embed(walk)}>Embed</button>` : nothing}
        ${walk.mine ? plain(walk.public ? "Make private" : "Make public", () => this.#show(walk)) : nothing}
        ${walk.mine ? this.#own(walk) : nothing}
      </div>
      ${embeds && this.#code
        ? html`<div class="embedding"><textarea class="snippet" rows="4" readonly aria-label="Code to embed this walk" .value=${this.#code} @focus=${({ target }) => target.select()}></textarea>
            ${copy("embed", "Copy code", "Code copied", () => this.#code)}</div>`
        : nothing}
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

  async #embed(walk) {
    const shown = this.#code;
    this.#code = "";
    await this.#do(async () => {
      if (!shown) this.#code = (await readEmbed(addressOf(walk))).body.html;
    });
    document.querySelector(".snippet")?.focus();
  }

  async #copy(what, text) {
    this.#error = "";
    try {
      await navigator.clipboard.writeText(text);
      this.#copied = what;
      announce(COPIED[what]);
      clearTimeout(this.#reset);
      this.#reset = setTimeout(() => {
        this.#copied = "";
        this.changed();
      }, COPIED_FOR);
    } catch {
      this.#error = `The browser does not let this page copy. Copy it from here:\n${text}`;
    }
    this.changed();
  }

  /** Shares the film where that can be read and shared, or else the link, or else copies it. */
  async #share(walk) {
    const [title, url] = [titleOf(walk), addressOf(walk)];
    const film = await filmOf(walk);
    const files = film && navigator.canShare?.({ files: [film] }) ? { files: [film], text: `${title} ${url}` } : { url };
    try {
      await navigator.share({ title, ...files });
    } catch (error) {
      if (error.name !== "AbortError") await this.#copy("link", url); // AbortError: the visitor thought better of it
    }
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

/** The MP4 as a file, or null: pages may read files of their own origin only (Content-Security-Policy). */
async function filmOf({ artifacts: { mp4 }, prompts }) {
  if (!mp4 || new URL(mp4.url, location.href).origin !== location.origin) return null;
  // It is in the browser's cache since it was played.
  const film = await fetch(mp4.url, { signal: AbortSignal.timeout(PATIENCE) }).then((answer) => answer.ok && answer.blob()).catch(() => null);
  if (!film) return null;
  const name = prompts.join(" to ").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 80);
  return new File([film], `${name}.mp4`, { type: "video/mp4" });
}
