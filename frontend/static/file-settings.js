/** The settings that the files of a walk carry, read in the browser; `momalisa/cli/files.py` reads the same. */

const text = (bytes) => new TextDecoder().decode(bytes);
const name = (bytes, place) => String.fromCharCode(...bytes.subarray(place, place + 4));
const find = (parts, kind) => parts.find(([found]) => found === kind)[1];

/** The comment of a GIF, which comes before its pictures (GIF89a, section 24). */
function gif(bytes) {
  let place = 13 + (bytes[10] & 0x80 ? 3 * 2 ** ((bytes[10] & 7) + 1) : 0);
  while (bytes[place] === 0x21) {
    const kind = bytes[place + 1];
    const blocks = [];
    for (place += 2; bytes[place]; place += 1 + bytes[place]) blocks.push(text(bytes.subarray(place + 1, place + 1 + bytes[place])));
    place += 1;
    if (kind === 0xfe) return blocks.join("");
  }
  return "";
}

/** The parts of a file as [[kind, bytes], …]: `read(view, place)` gives the kind, the start, the size and the next place. */
function parts(bytes, place, read) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = [];
  while (place < bytes.length) {
    const [kind, start, size, next] = read(view, place);
    found.push([kind, bytes.subarray(start, start + size)]);
    place = next;
  }
  return found;
}

const png = (bytes) => parts(bytes, 8, (view, place) => {
  const size = view.getUint32(place);
  return [name(bytes, place + 4), place + 8, size, place + 12 + size];
});

const riff = (bytes) => parts(bytes, 12, (view, place) => {
  const size = view.getUint32(place + 4, true);
  return [name(bytes, place), place + 8, size, place + 8 + size + (size % 2)];
});

const boxes = (bytes) => parts(bytes, 0, (view, place) => {
  let [size, start] = [view.getUint32(place), 8];
  if (size === 1) [size, start] = [Number(view.getBigUint64(place + 8)), 16];
  if (size < start) size = bytes.length - place;
  return [name(bytes, place + 4), place + start, size - start, place + size];
});

/** The comment of an MP4 (QuickTime File Format). */
const mp4 = (bytes) =>
  [["moov", 0], ["udta", 0], ["meta", 4], ["ilst", 0], ["\u00a9cmt", 0], ["data", 8]]
    .reduce((inside, [kind, skipped]) => find(boxes(inside), kind).subarray(skipped), bytes);

/** `walk.json`, the first file in the ZIP of a walk, which compresses nothing (APPNOTE.TXT, 4.3.7). */
function zip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = 30 + view.getUint16(26, true) + view.getUint16(28, true);
  return bytes.subarray(start, start + view.getUint32(18, true));
}

function unescaped(xml) {
  const characters = { amp: "&", lt: "<", gt: ">", quot: '"', "#x27": "'" };
  return xml.replace(/&(amp|lt|gt|quot|#x27);/gu, (_, found) => characters[found]);
}

/** The description in an XMP packet. */
const xmp = (bytes) => unescaped(text(bytes).match(/<dc:description>.*?"x-default">(.*?)<\/rdf:li>/su)[1]);

function carriedText(bytes) {
  const begin = name(bytes, 0);
  if (begin === "GIF8") return gif(bytes);
  if (begin === "\x89PNG") return text(png(bytes).find(([kind, body]) => kind === "tEXt" && text(body.subarray(0, 8)) === "Comment\0")[1].subarray(8));
  if (begin === "RIFF") return xmp(find(riff(bytes), "XMP "));
  if (name(bytes, 4) === "ftyp") return text(mp4(bytes));
  return text(begin.startsWith("PK") ? zip(bytes) : bytes);
}

const FIELDS = new Set([
  "prompts", "pinned", "model", "frames", "leg_frames", "weights", "loop", "pacing", "easing", "hold", "interpolation", "fps",
  "seed", "seed_to", "seeds", "negative_prompt", "negative_prompts", "steps", "guidance", "scheduler", "width", "height", "exact", "large",
]);

/** Whether settings are those of a walk, not of a single frame, which has one prompt or two. */
const ofWholeWalk = ({ prompts, frames }) => Array.isArray(prompts) && prompts.length > 1 && prompts.every((each) => typeof each === "string") && frames !== undefined;

/** What a request may take from a file's bytes, or null if it carries no settings of a whole walk. */
export function settingsOf(bytes) {
  try {
    const found = JSON.parse(carriedText(bytes));
    return ofWholeWalk(found) ? Object.fromEntries(Object.entries(found).filter(([field]) => FIELDS.has(field))) : null;
  } catch {
    return null;
  }
}

const SUIT_THE_MODEL = new Set(["pinned", "model", "steps", "guidance", "scheduler", "width", "height"]);

/** Settings without those that suit their model, if it is none of `models`, [{name}, …]. */
export function settingsFor(models, settings) {
  if (settings.model === undefined || models.some(({ name }) => name === settings.model)) return settings;
  return Object.fromEntries(Object.entries(settings).filter(([field]) => !SUIT_THE_MODEL.has(field)));
}

/** Settings as the form has them: text, and "" where they say nothing. */
export function formValues(settings, names) {
  const shown = (value) => (typeof value === "boolean" ? value : String(value ?? "")); // a box is ticked or not
  const values = Object.fromEntries(names.map((field) => [field, shown(settings[field])]));
  return { ...values, size: settings.width ? `${settings.width}x${settings.height}` : "", prompts: settings.prompts };
}

const KEEPS_PINS = new Set(["exact", "fps", "hold", "large", "public"]);
const FOR_EACH_STOP = ["weights", "seeds", "negative_prompts"];
const SHORT_FORMS = { seeds: ["seed", "seed_to"], negative_prompts: ["negative_prompt"], leg_frames: ["frames"] };

/**
 * The request for a walk like another, changed by the form since it was filled: `filled` and `now` are what the form
 * asked for then and asks for now. What no longer suits the changes is left out, as by the API (`domain/spec.py`);
 * where the settings say nothing, it is what the form shows.
 */
export function changed(settings, filled, now) {
  const same = (field) => JSON.stringify(filled[field]) === JSON.stringify(now[field]);
  const edited = Object.keys({ ...filled, ...now }).filter((field) => !same(field));
  const gone = new Set(edited.some((field) => !KEEPS_PINS.has(field)) ? ["pinned"] : []);
  for (const [listed, short] of Object.entries(SHORT_FORMS)) {
    if (short.some((field) => edited.includes(field))) gone.add(listed);
  }
  if (now.prompts.length !== settings.prompts.length) for (const field of [...FOR_EACH_STOP, "leg_frames"]) gone.add(field);
  if ((now.loop === "closed") !== (filled.loop === "closed")) gone.add("leg_frames");
  const kept = Object.entries(settings).filter(([field]) => !gone.has(field) && !edited.includes(field));
  return { ...now, ...Object.fromEntries(kept) };
}
