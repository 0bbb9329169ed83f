/** The stops of a walk as a list of words: pure, each change gives a new list. */

export const FEWEST = 2;
export const MOST = 10;

/** A new stop comes before the last one, so that a walk keeps its end. Returns the list and the place of the new one. */
export function added(stops) {
  if (stops.length >= MOST) return { stops, place: stops.length - 1 };
  const place = stops.length - 1;
  return { stops: stops.toSpliced(place, 0, ""), place };
}

export const removed = (stops, place) => (stops.length > FEWEST ? stops.toSpliced(place, 1) : stops);

/** Takes a stop out and puts it where another is; the ones between make room. */
export function moved(stops, from, to) {
  const goal = Math.min(Math.max(to, 0), stops.length - 1);
  return stops.toSpliced(from, 1).toSpliced(goal, 0, stops[from]);
}

export const nameOf = (place, count) => (place === 0 ? "From" : place === count - 1 ? "To" : "By way of");
