/** An answer of the API that is no success. `status` is 0 when no answer came at all. */
export class ApiError extends Error {
  constructor(message, { status = 0, fields = [], retryAfter = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    /** [{field, message}], named as in the request body. */
    this.fields = fields;
    /** Seconds, or null. */
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** Seconds from a Retry-After header, which holds seconds or a date; null when absent or unreadable. */
function retryAfterSeconds(header) {
  if (!header) return null;
  const seconds = /^\d+(\.\d+)?$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null;
}

const silence = () =>
  globalThis.navigator?.onLine === false
    ? "You are offline. What you wrote stays here; try again when you are back."
    : "The museum does not answer just now. What you wrote stays here; try again in a moment.";

/** Fetches JSON; returns {status, body, etag, retryAfter}, body null on 304 and 204. Throws ApiError, or AbortError. */
export async function request(path, { method = "GET", json, etag, key, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (etag) headers["If-None-Match"] = etag;
  if (key) headers["Idempotency-Key"] = key;
  let response, body;
  try {
    response = await fetch(path, { method, headers, signal, body: json === undefined ? undefined : JSON.stringify(json) });
    const empty = response.status === 304 || response.status === 204;
    body = empty ? null : await response.json().catch((error) => {
      if (error.name === "AbortError") throw error;
      return undefined;
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(silence());
  }
  const retryAfter = retryAfterSeconds(response.headers.get("Retry-After"));
  const { status } = response;
  if (status === 304) return { status, body: null, etag, retryAfter };
  if (response.ok && body !== undefined) return { status, body, etag: response.headers.get("ETag"), retryAfter };
  const message = body?.detail || body?.title || `The museum answered with an error (${status}). Try again in a moment.`;
  throw new ApiError(message, { status, fields: Array.isArray(body?.errors) ? body.errors : [], retryAfter });
}

export const createWalk = (json, key) => request("/v1/walks", { method: "POST", json, key });
export const readWalk = (id, options) => request(`/v1/walks/${id}`, options);
/** What shows a walk on other sites, as oEmbed has it. */
export const readEmbed = (address) => request(`/oembed?url=${encodeURIComponent(address)}`);
export const cancelWalk = (id) => request(`/v1/walks/${id}/cancel`, { method: "POST" });
export const changeWalk = (id, json) => request(`/v1/walks/${id}`, { method: "PATCH", json });
export const deleteWalk = (id) => request(`/v1/walks/${id}`, { method: "DELETE" });

/** A key that makes a submission safe to send again. crypto.randomUUID is not there on plain http. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
