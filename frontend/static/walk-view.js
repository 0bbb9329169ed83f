import "./frame-player.js";
import "./plan-drawing.js";
import { announce } from "./announce.js";
import { remaining, roughly } from "./estimate.js";
import { downloadsTemplate, factsTemplate, keysTemplate, titleTemplate } from "./label.js";
import { followWalk } from "./follow.js";
import { coarseFirst, stopMarks } from "./order.js";
import { nearest } from "./pace.js";
import { html, nothing, render } from "./vendor/lit-html.js";
import { WalkActions } from "./walk-actions.js";
import { countWords, mediumOf, quarter, queueWords, statusWords, titleOf } from "./wording.js";

const FIRST = 16; // frames that hang on the plan; with these the walk can be played

/** One walk on the wall with its label beside it, followed until it is done. */
class WalkView extends HTMLElement {
  #walk = null;
  #notice = "";
  #pictures = ""; // what is said while frames do not come through
  #gone = null; // why there is nothing more to see
  #player = document.createElement("frame-player");
  #film = null; // the <video> that the server wrote, which may be loaded by now
  #lineage = null; // what it started from and led to, as the server wrote it
  #mat = document.createElement("div"); // the status, on the mat
  #plan = document.createElement("plan-drawing");
  #playing = false; // whether there is a film, or a frame, to be played
  #stop = -1; // the stop nearest to the frame in view; none: the last
  #receivedAt = 0; // when the walk was received, in milliseconds of this clock
  #tick; // the timer of the next second of the time left
  #following = null;
  #renewal; // the timer of the next look at a walk that is done
  #actions = new WalkActions((walk) => (walk ? this.#onWalk(walk) : this.#draw()));

  connectedCallback() {
    const walk = JSON.parse(document.getElementById("walk").textContent);
    this.#film = this.querySelector("video");
    this.#lineage = this.querySelector(".lineage");
    this.replaceChildren();
    this.#plan.className = "mat";
    this.#mat.className = "on-mat";
    this.#player.addEventListener("failed", () => this.#onFailed());
    this.#player.addEventListener("joined", () => this.#onJoined());
    this.#player.addEventListener("stands", () => this.#onStands());
    this.#onWalk(walk);
    if (!walk.done) this.#follow();
  }

  #follow() {
    this.#following = followWalk(this.#walk.id, {
      onWalk: (walk) => this.#onWalk(walk),
      onNotice: (text) => this.#onNotice(text),
      onError: (error) => this.#onError(error),
    });
  }

  #lookAgain() {
    if (this.#following) this.#following.again();
    else this.#follow();
  }

  #onWalk(walk) {
    this.#walk = walk;
    this.#receivedAt = Date.now();
    const there = walk.frames.filter(({ url }) => url);
    this.#playing ||= this.#playable;
    this.#plan.update({
      stops: walk.prompts,
      frames: walk.frames_total,
      loop: walk.settings.loop,
      pictures: this.#playing ? [] : coarseFirst(there.length).slice(0, FIRST).map((index) => there[index]),
      walking: !walk.done,
    });
    this.#player.caption = walk.done ? nothing : this.#mat;
    this.#player.update(walk, stopMarks(walk.prompts, walk.settings.loop), this.#film ?? undefined);
    this.#draw();
    this.#say();
    this.#renew();
  }

  /** Asks for new addresses before those of the files run out, so that no download is refused. */
  #renew() {
    clearTimeout(this.#renewal);
    const until = Date.parse(this.#walk.urls_expire_at) - Date.now();
    if (!this.#walk.done || !(until < 2 ** 31)) return;
    this.#renewal = setTimeout(() => this.#lookAgain(), Math.max(10_000, until - 60_000));
  }

  /** Frames do not come through: their addresses may have run out before their time, by a clock that is wrong. */
  #onFailed() {
    if (this.#pictures) return;
    this.#pictures = navigator.onLine
      ? "Pictures do not come through just now; this page keeps trying."
      : "You are offline. The pictures that are missing come when you are back.";
    announce(this.#pictures);
    this.#draw();
    this.#lookAgain();
  }

  #onJoined() {
    const plays = this.#playing || this.#playable;
    const back = this.#pictures && !this.#player.failing;
    if (plays === this.#playing && !back) return;
    this.#playing = plays;
    if (back) this.#pictures = "";
    this.#draw();
  }

  /** Whether there is a film, or enough frames to be played; before, they hang on the plan. */
  get #playable() {
    const frames = Number(this.#player.dataset.frames ?? 0);
    return this.#walk.done ? Boolean(this.#film) || frames > 0 : frames >= Math.min(FIRST, this.#walk.frames_total);
  }

  #onStands() {
    const marks = stopMarks(this.#walk.prompts, this.#walk.settings.loop);
    const stop = nearest(marks.map(({ position }) => position), this.#player.position ?? 1) % this.#walk.prompts.length;
    if (stop === this.#stop) return;
    this.#stop = stop;
    this.#draw();
  }

  #onNotice(text) {
    this.#notice = text;
    this.#draw();
    if (text) announce(text);
  }

  #onError(error) {
    this.#gone = error;
    this.#draw();
    announce(goneWords(error).title);
  }

  #say() {
    const walk = this.#walk;
    if (walk.done) return announce([statusWords(walk), walk.error?.message].filter(Boolean).join(". "));
    const quarters = quarter(walk.progress);
    if (walk.status !== "running" || !quarters) return announce(statusWords(walk));
    const { frames_total } = walk.progress;
    return announce(countWords({ frames_done: Math.ceil((quarters * frames_total) / 4), frames_total }));
  }

  /** Draws the page; if that takes away what had the focus, such as "Yes", the first action has it then. */
  #draw() {
    clearTimeout(this.#tick);
    const focused = this.contains(document.activeElement);
    if (this.#gone) this.#drawGone();
    else this.#drawWalk();
    if (focused && !this.contains(document.activeElement)) this.querySelector(".actions a")?.focus();
  }

  #drawWalk() {
    const walk = this.#walk;
    render(this.#status(walk), this.#mat);
    const title = titleOf(walk);
    document.title = `${title} · MoMALisa`;
    render(
      html`<section class="stage" aria-label="The work">${this.#playing ? this.#player : html`<div class="frame">${this.#plan}${walk.done ? nothing : this.#mat}</div>`}</section>
        <section class="label" id="label" tabindex="-1" aria-label="The label">
          <h1 class=${title.length > 90 ? "title long" : "title"}>${titleTemplate(walk)}</h1>
          <p class="medium">${mediumOf(walk)}</p>
          ${this.#state(walk)}
          ${this.#notice || this.#pictures ? html`<p class="notice">${this.#notice || this.#pictures}</p>` : nothing}
          ${factsTemplate(walk)}
          ${walk.warnings.length ? html`<ul class="warnings" aria-label="Remarks">${walk.warnings.map((warning) => html`<li dir="auto">${warning}</li>`)}</ul>` : nothing}
          ${downloadsTemplate(walk)}
          ${this.#lineage ?? nothing}
          ${this.#actions.template(walk, this.#stop, { hidden: "hidden" in this.dataset })}
          ${this.#playing ? keysTemplate : nothing}
        </section>`,
      this,
    );
  }

  /** What the label says of a walk that is not finished: why. */
  #state(walk) {
    if (!walk.done) return walk.progress.waiting_for ? html`<p class="reason">${walk.progress.waiting_for}</p>` : nothing;
    if (walk.status === "succeeded") return nothing;
    return html`<div class="ended"><p class="status">${statusWords(walk)}</p>
      ${walk.error ? html`<p class="reason">${walk.error.message}</p>` : nothing}</div>`;
  }

  #status(walk) {
    if (walk.done) return nothing;
    const { frames_done, frames_total, queue_position } = walk.progress;
    const count = [frames_done || !queue_position ? countWords(walk.progress) : "", queueWords(queue_position), this.#left(walk.progress)];
    return html`<p class="status">${statusWords(walk)}</p>
      <p class="count">${count.filter(Boolean).join(" · ")}</p>
      <progress aria-label="Frames painted" max=${frames_total} .value=${frames_done}></progress>`;
  }

  /** The time left, which runs on here: an answer comes only with a change of the walk. While it waits, it stands. */
  #left({ eta_seconds, waiting_for }) {
    if (!Number.isFinite(eta_seconds)) return "";
    if (waiting_for) return `${roughly(eta_seconds)} left`;
    this.#tick = setTimeout(() => this.#draw(), 1000);
    return `${roughly(remaining(eta_seconds, Date.now() - this.#receivedAt))} left`;
  }

  #drawGone() {
    const { title, words } = goneWords(this.#gone);
    document.title = `${title} · MoMALisa`;
    render(
      html`<section class="stage" aria-hidden="true"><div class="frame removed"><div class="mat"><p class="removed-card">Not on view</p></div></div></section>
        <section class="label" id="label" tabindex="-1" aria-label="The label">
          <h1 class="title">${title}</h1><p class="reason">${words}</p>
          <p class="actions"><a href="/">Make a walk</a> <a href="/gallery">See the gallery</a></p>
        </section>`,
      this,
    );
  }
}

function goneWords(error) {
  if (error.status === 410) return { title: "The walk has expired", words: "A walk is removed after some time. You can make a new one from the same words." };
  if (error.status === 404) return { title: "No such walk", words: "Nothing hangs here any more. The walk was taken down by its maker." };
  return { title: "This walk cannot be shown", words: error.message };
}

customElements.define("walk-view", WalkView);
