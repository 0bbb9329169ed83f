/** In which order the frames of a walk are shown: pure. A rank is a frame's place among those that are there. */

/** Loop modes by the names that people read. */
export const MODES = { round: "From the start again", "back-and-forth": "Back and forth", once: "Once" };

export const ownMode = (loop) => (loop === "pingpong" ? "back-and-forth" : "round");

/** Ranks in order; `holds` says how often each is shown, once if it says nothing. */
export function playlist(count, mode, holds = []) {
  const there = Array.from({ length: count }, (_, rank) => rank);
  const order = mode === "back-and-forth" ? [...there, ...there.slice(1, -1).reverse()] : there;
  return order.flatMap((rank) => Array(holds[rank] ?? 1).fill(rank));
}

/**
 * The animation itself, as far as its frames are there.
 *
 * `sequence` holds indices into `frames`; a frame is known by its position, since indices grow while a walk is made.
 */
export function ownPlaylist(sequence, frames, positions) {
  const ranks = new Map(positions.map((position, rank) => [position, rank]));
  return sequence.map((index) => ranks.get(frames[index]?.position)).filter((rank) => rank !== undefined);
}

/** How many times each rank is shown in a row in a playlist. */
export function holdsOf(list, count) {
  const holds = Array(count).fill(1);
  for (let start = 0, end; start < list.length; start = end) {
    for (end = start + 1; end < list.length && list[end] === list[start]; end += 1);
    holds[list[start]] = Math.max(holds[list[start]], end - start);
  }
  return holds;
}

/**
 * Where to go on in a new playlist after frames have joined: at the frame in view, going the same way.
 *
 * `rank` is that frame's place by now, `forward` whether the walk was on its way to the end.
 */
export function resumed(list, rank, forward) {
  const places = list.flatMap((found, place) => (found === rank ? [place] : []));
  const onward = places.find((place) => (list[(place + 1) % list.length] >= rank) === forward);
  return onward ?? places[0] ?? 0;
}

/** Indices 0 … count - 1 so that any beginning of them spans the whole walk. */
export function coarseFirst(count) {
  const bits = Math.max(1, (count - 1).toString(2).length);
  const flipped = (index) => parseInt(index.toString(2).padStart(bits, "0").split("").reverse().join(""), 2);
  return Array.from({ length: count }, (_, index) => index).sort((one, other) => flipped(one) - flipped(other));
}

/** Where stop k of a walk lies, 0 to 1; a closed walk comes back to its first. */
export function stopMarks(prompts, loop) {
  const stops = loop === "closed" ? [...prompts, prompts[0]] : prompts;
  return stops.map((prompt, place) => ({ prompt, position: place / (stops.length - 1) }));
}
