/** Where the points of the figure lie: pure. `travelled` is how far the picture has come at each sample, 0 to 1. */

/** How far the picture has come at t, between samples on a straight line. */
export function travelledAt(travelled, t) {
  const place = t * (travelled.length - 1);
  const before = Math.min(Math.floor(place), travelled.length - 2);
  return travelled[before] + (place - before) * (travelled[before + 1] - travelled[before]);
}

export const equalSteps = (count) => Array.from({ length: count }, (_, step) => step / (count - 1));

/** The t at which the picture has come as far as each of the equal shares of its way. */
export function evenSteps(travelled, count) {
  const last = travelled.length - 1;
  return equalSteps(count).map((share) => {
    const after = travelled.findIndex((far) => far >= share);
    if (after <= 0) return after < 0 ? 1 : 0;
    const step = travelled[after] - travelled[after - 1];
    return (after - 1 + (step ? (share - travelled[after - 1]) / step : 0)) / last;
  });
}

/** The largest jump of the picture between two neighbours, in per cent of its whole way. */
export function largestJump(travelled, points) {
  const reached = points.map((t) => travelledAt(travelled, t));
  return Math.round(100 * Math.max(...reached.slice(1).map((far, place) => far - reached[place])));
}
