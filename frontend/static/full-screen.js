/** Lets an element fill the screen, or leaves the full screen. */
export async function toggleFullScreen(element) {
  if (document.fullscreenElement) await document.exitFullscreen();
  else await element.requestFullscreen().catch(() => { /* the browser says no, and the page stays as it is */ });
}
