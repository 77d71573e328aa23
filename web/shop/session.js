/** The user, the session and the cart of this browser tab, and the events they cause. */

import { RecommenderClient } from "./recommender.js";

const STORED = "shop-session";
const FIELDS = ["category", "brand", "price"];

/** State of a tab, kept in the session storage; dispatches `change` when something of it changes. */
export class Session extends EventTarget {
  #shop;
  #state;

  /** @param {{key: string|null}} config of the endpoint's storefront */
  constructor(config) {
    super();
    this.#shop = new RecommenderClient(location.origin, { key: config.key, timeout: 10_000 });
    this.#state = JSON.parse(sessionStorage.getItem(STORED) ?? "null") ?? newState(null);
    this.#save();
  }

  /** Id of the user; null for a new visitor, whom the session alone identifies. */
  get userId() {
    return this.#state.userId;
  }

  /** The actions of this session: type, and the item's title or the query; oldest first. */
  get actions() {
    return this.#state.actions;
  }

  /** Lines of the cart: item id, title, category, brand, price, quantity, and the list it was in. */
  get cart() {
    return this.#state.cart;
  }

  /** Arm of the latest recorded list; null without an experiment. */
  get arm() {
    return this.#state.arm;
  }

  /** Begins a session of another user, with an empty cart. */
  switchUser(userId) {
    this.#state = newState(userId || null);
    this.#saveAndNotify(this.#state);
  }

  /** Returns a list of recommendations, which is recorded. */
  async recommend(request) {
    const state = this.#state; // the user may be switched while the answer is under way
    const list = await this.#shop.recommend({ ...identity(state), fields: FIELDS, ...request });
    return this.#rememberArm(state, list);
  }

  /** Returns search results; the endpoint records the search. */
  async search(request) {
    const state = this.#state;
    const found = await this.#shop.search({ ...identity(state), fields: FIELDS, ...request });
    const latest = state.actions.at(-1);
    if (!request.cursor && !(latest?.type === "search" && latest.text === request.query)) {
      state.actions.push({ type: "search", text: request.query });
    }
    return this.#rememberArm(state, found);
  }

  /** Returns the list that the model would show next, without recording it, and the milliseconds it took. */
  async nextList(k) {
    const started = performance.now();
    const list = await this.#shop.recommend({ ...identity(this.#state), k, record: false });
    return { ...list, milliseconds: performance.now() - started };
  }

  /** Returns an item. */
  item(itemId) {
    return this.#shop.item(itemId);
  }

  /** Returns similar items. */
  similar(itemId, k) {
    return this.#shop.similar(itemId, { k, fields: FIELDS });
  }

  /** Returns completions of an unfinished query. */
  suggest(prefix) {
    return this.#shop.suggest(prefix, 5);
  }

  /** Records that the user looked at an item; `shown` is where: the list's request_id and the position. */
  view(item, shown = {}) {
    return this.#recordAction("view", item, shown);
  }

  /** Puts an item into the cart once the endpoint has the event. */
  async addToCart(item, shown = {}) {
    const state = await this.#recordAction("add_to_cart", item, shown);
    const line = state.cart.find((found) => found.item_id === item.item_id);
    if (line) line.quantity += 1;
    else state.cart.push({ ...item, quantity: 1, shown, event_id: crypto.randomUUID() });
    this.#saveAndNotify(state);
  }

  /** Sets the quantity of an item in the cart; 0 takes it out. */
  setQuantity(itemId, quantity) {
    this.#state.cart = this.#state.cart
      .map((line) => (line.item_id === itemId ? { ...line, quantity } : line))
      .filter((line) => line.quantity > 0);
    this.#saveAndNotify(this.#state);
  }

  /** Buys the cart. If no answer comes, the cart stays; a purchase that is sent again has the same id and counts once. */
  async buy() {
    const state = this.#state;
    const bought = state.cart;
    const events = bought.map((line) => ({
      ...toEvent(state, "purchase", line, line.shown),
      event_id: line.event_id,
      quantity: line.quantity,
      ...(typeof line.price === "number" ? { price: line.price } : {}),
    }));
    await this.#shop.send(...events);
    state.actions.push(...bought.map((line) => ({ type: "purchase", text: line.title })));
    state.cart = [];
    this.#saveAndNotify(state);
    return bought;
  }

  async #recordAction(type, item, shown) {
    const state = this.#state;
    await this.#shop.send(toEvent(state, type, item, shown));
    state.actions.push({ type, text: item.title });
    this.#saveAndNotify(state);
    return state;
  }

  #rememberArm(state, list) {
    state.arm = list.arm;
    this.#saveAndNotify(state);
    return list;
  }

  /** Does nothing for a state that `switchUser` has replaced. */
  #saveAndNotify(state) {
    if (state !== this.#state) return;
    this.#save();
    this.dispatchEvent(new Event("change"));
  }

  #save() {
    sessionStorage.setItem(STORED, JSON.stringify(this.#state));
  }
}

function newState(userId) {
  return { userId, sessionId: `shop-${crypto.randomUUID()}`, actions: [], cart: [], arm: null };
}

function identity({ userId, sessionId }) {
  return { session_id: sessionId, ...(userId === null ? {} : { user_id: userId }) };
}

function toEvent(state, type, item, shown) {
  return { event_type: type, item_id: item.item_id, ...identity(state), ...shown };
}
