import { accession, kilobytes, longDate } from "./wording.js";
import { html, nothing } from "./vendor/lit-html.js";

const DOWNLOADS = { gif: "GIF", webp: "WebP", mp4: "MP4", large: "Large MP4", large_still: "Large still", zip: "Frames", sheet: "Contact sheet", poster: "Still" };
const FULL = { zip: "ZIP of all frames", poster: "Still picture" };
const enlarged = ({ enlarged_from }) => (enlarged_from ? `, enlarged from ${enlarged_from}` : "");
const WORDS = {
  loop: { pingpong: "to and fro", closed: "closed" },
  easing: { "ease-in": "starts slowly", "ease-out": "arrives slowly", "ease-in-out": "slow at both ends" },
  interpolation: { slerp: "along the arc" },
};

/** The prompts with arrows between them, each in its own writing direction. */
export const titleTemplate = ({ prompts }) =>
  prompts.map((prompt, place) => html`${place ? "\u00a0→ " : nothing}<bdi>${prompt}</bdi>`);

/** What a museum says of a work, each fact a name and a value. */
export function facts(walk) {
  const { settings, model, created_at, finished_at } = walk;
  const date = finished_at ?? created_at;
  const seeds = settings.seeds ?? [settings.seed, settings.seed_to].filter((seed) => seed !== null && seed !== undefined);
  const leftOut = [settings.negative_prompt, ...(settings.negative_prompts ?? [])].filter(Boolean);
  const manner = Object.entries(WORDS).map(([name, words]) => words[settings[name]]).filter(Boolean).join(", ");
  return [
    [seeds.length > 2 ? "Seeds" : "Seed", seeds.join(" to ")],
    ["Size", `${settings.width} × ${settings.height}`],
    ["Model", model],
    ["Date", html`<time datetime=${date}>${longDate(date)}</time>`],
    ["Gait", manner],
    ["Left out", leftOut.length ? leftOut.map((words, place) => html`${place ? ", " : nothing}<bdi>${words}</bdi>`) : undefined],
    ["Accession", accession(walk)],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
}

export const factsTemplate = (walk) =>
  html`<dl class="facts">${facts(walk).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

export function downloadsTemplate({ artifacts = {} }) {
  const offered = Object.entries(DOWNLOADS).filter(([kind]) => artifacts[kind]?.url);
  if (!offered.length) return nothing;
  return html`<div class="downloads"><h2>Download</h2><ul>
    ${offered.map(([kind, name]) => html`<li><a href=${artifacts[kind].url} download aria-label=${`${FULL[kind] ?? name}${enlarged(artifacts[kind])}, ${kilobytes(artifacts[kind].bytes)}`}>${name}</a>
      <span class="size" aria-hidden="true">${kilobytes(artifacts[kind].bytes)}${enlarged(artifacts[kind])}</span></li>`)}
  </ul></div>`;
}
