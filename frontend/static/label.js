import { accession, kilobytes, longDate } from "./wording.js";
import { html, nothing } from "./vendor/lit-html.js";

/** The files in the order in which they are offered, in plain words; walk.html has the same for readers without scripts. */
const DOWNLOADS = {
  mp4: "Film (MP4)", gif: "Animation (GIF)", webp: "Animation (WebP)", large: "Large film (MP4)",
  poster: "Middle frame (WebP)", large_still: "Large middle frame (PNG)", sheet: "Contact sheet (PNG)", zip: "Frames (ZIP)",
};
const sizeOf = ({ bytes, height, enlarged_from }) => `${kilobytes(bytes)}${enlarged_from ? `, ${height} pixels high, enlarged from ${enlarged_from}` : ""}`;
const WORDS = {
  loop: { pingpong: "back and forth", closed: "closed" },
  easing: { "ease-in": "starts slowly", "ease-out": "arrives slowly", "ease-in-out": "slow at both ends" },
  interpolation: { slerp: "along the arc" },
};
const MADE = { denoised: "painted", interpolated: "interpolated", copied: "copied" };
const madeWords = (made) => Object.entries(MADE).filter(([how]) => made[how]).map(([how, words]) => `${made[how]} ${words}`).join(", ");

/** The prompts with arrows between them, each in its own writing direction. */
export const titleTemplate = ({ prompts }) =>
  prompts.map((prompt, place) => html`${place ? "\u00a0→ " : nothing}<bdi>${prompt}</bdi>`);

/** What a museum says of a work, each fact a name and a value. */
function facts(walk) {
  const { settings, model, created_at, finished_at, made } = walk;
  const date = finished_at ?? created_at;
  const seeds = settings.seeds ?? [settings.seed, settings.seed_to].filter((seed) => seed !== null && seed !== undefined);
  const leftOut = [settings.negative_prompt, ...(settings.negative_prompts ?? [])].filter(Boolean);
  const manner = Object.entries(WORDS).map(([name, words]) => words[settings[name]]).filter(Boolean).join(", ");
  return [
    [seeds.length > 2 ? "Seeds" : "Seed", seeds.join(" to ")],
    ["Size", `${settings.width} × ${settings.height}`],
    ["Model", model],
    ["Date", html`<time datetime=${date}>${longDate(date)}</time>`],
    ["Motion", manner],
    ["Left out", leftOut.length ? leftOut.map((words, place) => html`${place ? ", " : nothing}<bdi>${words}</bdi>`) : undefined],
    ["Frames", made.interpolated ? madeWords(made) : undefined],
    ["Accession", accession(walk)],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
}

export const factsTemplate = (walk) =>
  html`<dl class="facts">${facts(walk).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

export function downloadsTemplate({ artifacts = {} }) {
  const offered = Object.entries(DOWNLOADS).filter(([kind]) => artifacts[kind]?.url);
  if (!offered.length) return nothing;
  return html`<div class="downloads"><h2>Download</h2><ul>
    ${offered.map(([kind, name]) => html`<li><a href=${artifacts[kind].url} download>${name}<span class="visually-hidden">, ${sizeOf(artifacts[kind])}</span></a>
      <span class="size" aria-hidden="true">${sizeOf(artifacts[kind])}</span></li>`)}
  </ul></div>`;
}

export const keysTemplate = html`<p class="keys"><kbd>←</kbd> <kbd>→</kbd> go from frame to frame. On the picture or its line, <kbd>Space</kbd> plays and pauses, <kbd>F</kbd> fills the screen, <kbd>Home</kbd> and <kbd>End</kbd> go to the ends.</p>`;
