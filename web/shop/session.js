/** The shopper, the session and the cart of this browser tab, and the events they cause. */

import { RecommenderClient } from "./recommender.js";

const STORED = "shop-session";
const FIELDS = ["category", "brand", "price"];

export class Session extends EventTarget {
  #shop;
  #state;

  /** @param {{key: string|null}} config of the endpoint's storefront */
  constructor(config) {
    super();
    this.#shop = new RecommenderClient(location.origin, { key: config.key, timeout: 10_000 });
    const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "null");
    this.#state = stored ?? newState(null);
    this.#save();
  }

  /** Id of the shopper; null for a new visitor, whom the session alone identifies. */
  get userId() {
    return this.#state.userId;
  }

  /** The actions of this session: type, and the item's title or the query; oldest first. */
  get actions() {
    return this.#state.actions;
  }

  /** Lines of the cart: item id, title, category, price, quantity, and the list it came from. */
  get cart() {
    return this.#state.cart;
  }

  /** The latest recorded list: version, arm, purchase intent. */
  get latestList() {
    return this.#state.latestList;
  }

  /** Begins a session of another shopper, with an empty cart. */
  become(userId) {
    this.#state = newState(userId || null);
    this.#changed();
  }

  /** Returns a list of recommendations, which is recorded. */
  async recommend(request) {
    return this.#remember(await this.#shop.recommend({ ...this.#who(), fields: FIELDS, ...request }));
  }

  /** Returns search results; the endpoint records the search. */
  async search(request) {
    const found = await this.#shop.search({ ...this.#who(), fields: FIELDS, ...request });
    const latest = this.#state.actions.at(-1);
    if (!request.cursor && !(latest?.type === "search" && latest.text === request.query)) {
      this.#state.actions.push({ type: "search", text: request.query });
    }
    return this.#remember(found);
  }

  /** Returns the list that the model would show next, without recording it, and the milliseconds it took. */
  async nextList(k) {
    const started = performance.now();
    const list = await this.#shop.recommend({ ...this.#who(), k, record: false });
    return { ...list, milliseconds: performance.now() - started };
  }

  item(itemId) {
    return this.#shop.item(itemId);
  }

  similar(itemId, k) {
    return this.#shop.similar(itemId, { k, fields: FIELDS });
  }

  suggest(prefix) {
    return this.#shop.suggest(prefix, 5);
  }

  /** Records that the shopper looked at an item; `shown` is where: the list's request_id and the position. */
  view(item, shown = {}) {
    return this.#act("view", item, shown);
  }

  /** Puts an item into the cart. */
  async addToCart(item, shown = {}) {
    const line = this.#state.cart.find((found) => found.item_id === item.item_id);
    if (line) line.quantity += 1;
    else this.#state.cart.push({ ...item, quantity: 1, shown });
    await this.#act("add_to_cart", item, shown);
  }

  /** Sets the quantity of an item in the cart; 0 takes it out. */
  setQuantity(itemId, quantity) {
    this.#state.cart = this.#state.cart
      .map((line) => (line.item_id === itemId ? { ...line, quantity } : line))
      .filter((line) => line.quantity > 0);
    this.#changed();
  }

  /** Buys the cart. The cart stays as it is if the endpoint does not answer. */
  async buy() {
    const bought = this.#state.cart;
    const events = bought.map((line) => ({
      ...this.#event("purchase", line, line.shown),
      quantity: line.quantity,
      ...(typeof line.price === "number" ? { price: line.price } : {}),
    }));
    await this.#shop.send(...events);
    this.#state.actions.push(...bought.map((line) => ({ type: "purchase", text: line.title })));
    this.#state.cart = [];
    this.#changed();
    return bought;
  }

  async #act(type, item, shown) {
    await this.#shop.send(this.#event(type, item, shown));
    this.#state.actions.push({ type, text: item.title });
    this.#changed();
  }

  #event(type, item, shown) {
    return { event_type: type, item_id: item.item_id, ...this.#who(), ...shown };
  }

  #who() {
    const { userId, sessionId } = this.#state;
    return { session_id: sessionId, ...(userId === null ? {} : { user_id: userId }) };
  }

  #remember(list) {
    const { model_version, arm, purchase_intent } = list;
    this.#state.latestList = { model_version, arm, purchase_intent };
    this.#changed();
    return list;
  }

  #changed() {
    this.#save();
    this.dispatchEvent(new Event("change"));
  }

  #save() {
    sessionStorage.setItem(STORED, JSON.stringify(this.#state));
  }
}

function newState(userId) {
  return { userId, sessionId: `shop-${crypto.randomUUID()}`, actions: [], cart: [], latestList: null };
}
