/** The drawing of the player: the picture in its frame, the line on which it walks, and the controls. */

import { MODES } from "./order.js";
import { html, nothing, svg } from "./vendor/lit-html.js";

export const SCALE = 4096; // steps of the scrubber from one end of the walk to the other: as fine as frames may lie
const SHARP = 512; // pixels: smaller frames are enlarged to about this with a better filter than CSS has
const SPEEDS = [0.25, 0.5, 1, 2];
const MOST_TICKS = 160;

const percent = (position) => `${(100 * position).toFixed(3)}%`;
const stopMark = ({ position }) => svg`<circle class="stop-mark" cx=${percent(position)} cy="50%" r="3.5" />`;
const ticksPath = (positions, top, bottom) => positions.map((position) => `M${(1000 * position).toFixed(1)} ${top}V${bottom}`).join("");

export const labelOf = (walk) => (walk ? `Walk from ${walk.prompts.join(" to ")}` : "Walk");

/** `film` is the <video> behind the picture, or null; `positions` are those of the frames that can be shown; `on` says what the controls do. */
export function playerTemplate({ walk, stops, film, caption, positions, playing, mode, speed, full }, on) {
  const numbered = stops.length > 3;
  const prompts = walk?.prompts ?? [];
  return html`<div class="frame"><div class="mat">${film ?? nothing}
      <canvas class="work" role="img" aria-label=${labelOf(walk)} @click=${on.toggle}></canvas>
    </div>${caption}</div>
    <div class="controls">
      <button type="button" class="play" @click=${on.toggle}>${playing ? "Pause" : "Play"}</button>
      <div class="line">
        <canvas class="strip" aria-hidden="true"></canvas>
        <svg class="marks" aria-hidden="true"><line class="way" x1="0" x2="100%" y1="50%" y2="50%" />
          ${walk ? marks(walk, positions) : nothing}${stops.map(stopMark)}</svg>
        <input type="range" class="scrubber" min="0" max=${SCALE} step="1" value="0" aria-label="Place on the walk"
          @pointerdown=${on.grab} @pointerup=${on.letGo} @pointercancel=${on.letGo} @input=${on.scrub} />
        <ol class="stop-names" aria-hidden="true">
          ${stops.map(({ prompt }, place) => html`<li title=${prompt}><span dir="auto">${numbered ? (place % prompts.length) + 1 : prompt}</span></li>`)}
        </ol>
        ${numbered ? html`<ol class="stop-legend" aria-hidden="true">${prompts.map((prompt, place) => html`<li title=${prompt}>${place + 1} <bdi>${prompt}</bdi></li>`)}</ol>` : nothing}
      </div>
      <div class="manner">
        <label><span>Loop</span> <select class="mode" @change=${({ target }) => on.setMode(target.value)}>
          ${Object.entries(MODES).map(([each, words]) => html`<option value=${each} ?selected=${each === mode}>${words}</option>`)}
        </select></label>
        <label><span>Speed</span> <select class="speed" @change=${({ target }) => on.setSpeed(Number(target.value))}>
          ${SPEEDS.map((each) => html`<option value=${each} ?selected=${each === speed}>${each}×</option>`)}
        </select></label>
        <span class="where" aria-hidden="true"></span>
        <button type="button" class="plain full" ?hidden=${!document.fullscreenEnabled} @click=${on.fullScreen}>${full ? "Leave full screen" : "Full screen"}</button>
      </div>
    </div>`;
}

/** A tick for each frame, drawn to the end where it can be shown; of very many, some. */
function marks({ frames }, positions) {
  const known = frames.map(({ position }) => position).filter(Number.isFinite);
  const each = Math.ceil(known.length / MOST_TICKS);
  const ticks = known.filter((_, rank) => rank % each === 0);
  const there = new Set(positions);
  return svg`<svg viewBox="0 0 1000 100" preserveAspectRatio="none">
      <path class="tick" d=${ticksPath(ticks.filter((position) => !there.has(position)), 42, 58)} />
      <path class="tick there" d=${ticksPath(ticks.filter((position) => there.has(position)), 30, 70)} />
    </svg>`;
}

/** Names stand under their stops; CSS may not be written into the page's markup, so it is set here. */
export function placeNames(player, stops) {
  player.querySelectorAll(".stop-names li").forEach((name, place) => {
    name.style.insetInlineStart = `${100 * stops[place].position}%`;
    name.dataset.end = place === 0 ? "first" : place === stops.length - 1 ? "last" : "";
  });
}

/** Gives the canvas the shape of a walk's pictures. */
export function shape(player, { width, height }) {
  const canvas = player.querySelector(".work");
  const enlarge = Math.max(1, Math.ceil(SHARP / Math.max(width, height)));
  if (canvas.width === width * enlarge && canvas.height === height * enlarge) return;
  Object.assign(canvas, { width: width * enlarge, height: height * enlarge });
  player.style.setProperty("--ratio", width / height);
}

export function paint(player, picture) {
  const canvas = player.querySelector(".work");
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
}
