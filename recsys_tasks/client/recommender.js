/**
 * Client of the endpoint for web pages: an ES module without dependencies and without a build step.
 *
 *   import { RecommenderClient } from "./recommender.js";
 *   const shop = new RecommenderClient("https://recommender.shop.example", { key: "…" });
 *   const shown = await shop.recommend({ user_id: "36", k: 5 });
 *   await shop.send({ event_type: "view", user_id: "36", item_id: shown.items[0].item_id, request_id: shown.request_id });
 *
 * Requests and answers are the JSON objects of the endpoint's OpenAPI document. Calls without a response, and those
 * answered with 429 or 503, are sent again after a random wait; they count once, because every call is idempotent.
 */

const BUSY = [429, 503];
const MAX_KEEPALIVE_BYTES = 60_000; // browsers allow 64 KiB, for all requests that are under way

/** An error response; `problem` is its problem document (RFC 9457). */
export class EndpointError extends Error {
  constructor(problem) {
    super(`${problem.status} ${problem.title}: ${problem.detail}`);
    this.name = "EndpointError";
    this.problem = problem;
  }
}

export class RecommenderClient {
  #url;
  #key;
  #timeout;
  #attempts;
  #firstWait;
  #maxWait;

  /**
   * @param {string} url address of the endpoint
   * @param {object} [options] `key`: API key; `timeout`: of each attempt, in ms; `attempts`: at most; `firstWait`,
   *   `maxWait`: longest wait before the second attempt, and before any, in ms
   */
  constructor(url, { key = null, timeout = 2000, attempts = 3, firstWait = 100, maxWait = 2000 } = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#key = key;
    this.#timeout = timeout;
    this.#attempts = attempts;
    this.#firstWait = firstWait;
    this.#maxWait = maxWait;
  }

  /** Returns a list of recommendations. */
  recommend(request = {}) {
    return this.#post("/v1/recommendations", request, { "Idempotency-Key": crypto.randomUUID() });
  }

  /** Returns the items that match `request.query`. */
  search(request) {
    return this.#post("/v1/search", request, { "Idempotency-Key": crypto.randomUUID() });
  }

  /** Returns up to `k` queries and items that complete an unfinished query. */
  suggest(prefix, k = 8) {
    return this.#call("GET", `/v1/suggest?q=${encodeURIComponent(prefix)}&k=${k}`);
  }

  /** Returns items similar to an item; the request may have conditions. */
  similar(itemId, request = {}) {
    return this.#post(`/v1/items/${encodeURIComponent(itemId)}/similar`, request);
  }

  /** Returns an item as lists, filters and search see it. */
  item(itemId) {
    return this.#call("GET", `/v1/items/${encodeURIComponent(itemId)}`);
  }

  /** Sends events; they are stored when the promise resolves. A few are sent even if the page is left meanwhile. */
  send(...events) {
    const identified = events.map((event) => ({ event_id: crypto.randomUUID(), ...event }));
    return this.#post("/v1/events", identified, {}, true);
  }

  #post(path, body, headers = {}, keepalive = false) {
    const text = JSON.stringify(body);
    return this.#call("POST", path, {
      body: text,
      headers: { "Content-Type": "application/json", ...headers },
      keepalive: keepalive && new TextEncoder().encode(text).length <= MAX_KEEPALIVE_BYTES,
    });
  }

  async #call(method, path, { body, headers = {}, keepalive = false } = {}) {
    if (this.#key !== null) headers = { ...headers, Authorization: `Bearer ${this.#key}` };
    for (let attempt = 1; ; attempt++) {
      let response = null;
      try {
        const signal = AbortSignal.timeout(this.#timeout);
        response = await fetch(this.#url + path, { method, body, headers, keepalive, signal });
        if (response.ok) return await response.json();
        if (!BUSY.includes(response.status)) throw await this.#error(response);
      } catch (error) {
        if (error instanceof EndpointError || attempt >= this.#attempts) throw error;
        keepalive = false; // other requests may have used up what the browser allows
      }
      const asked = 1000 * Number(response?.headers.get("Retry-After") ?? 0);
      if (response !== null && (attempt >= this.#attempts || asked > this.#maxWait)) throw await this.#error(response);
      const wait = Math.min(this.#firstWait * 2 ** (attempt - 1), this.#maxWait);
      await new Promise((resolve) => setTimeout(resolve, asked + Math.random() * wait));
    }
  }

  async #error(response) {
    const text = await response.text();
    try {
      return new EndpointError(JSON.parse(text));
    } catch {
      return new EndpointError({ status: response.status, title: response.statusText, detail: text.slice(0, 300) });
    }
  }
}
