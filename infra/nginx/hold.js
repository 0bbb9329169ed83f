// While the API is being replaced, requests wait for it instead of failing.

// As long as slow machines take to stop all workers, migrate and start a new API.
const SECONDS = 60;
const PAUSE_MS = 250;

async function retry(r) {
    const deadline = Number(r.variables.held_until) || Date.now() + SECONDS * 1000;
    r.variables.held_until = String(deadline);
    while (mayBeSentAgain(r) && Date.now() < deadline) {
        if (await answers(r.variables.api)) {
            r.internalRedirect("@api");
            return;
        }
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    r.internalRedirect("@unavailable");
}

// A request that the API may have read is repeated only if that changes nothing: else there might be two walks.
function mayBeSentAgain(r) {
    const unsent = !/[1-9]/.test(r.variables.upstream_bytes_sent || "");
    return unsent || ((r.method === "GET" || r.method === "HEAD") && r.variables.upstream_status !== "504");
}

async function answers(api) {
    try {
        return (await ngx.fetch(`http://${api}/healthz`)).ok;
    } catch (error) {
        return false; // it does not listen, or its name is not known yet
    }
}

export default { retry };
