/** The arithmetic of playing a walk. */

/**
 * Milliseconds that each frame stays.
 *
 * A walk with gaps takes as long as the whole one, so that frames that join change its grain and not its speed. And a
 * walk takes a second at least: two frames in turn at full speed would flash (WCAG 2.3.1).
 */
export function dwell(joined, total, fps, speed = 1) {
  return 1000 * Math.max(Math.max(total, joined) / (joined * fps * speed), 1 / Math.max(1, joined - 1));
}

/** The rank of the frame whose position is nearest; positions ascend. */
export function nearest(positions, wanted) {
  let low = 0, high = positions.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (positions[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low > 0 && wanted - positions[low - 1] <= positions[low] - wanted ? low - 1 : low;
}
