/** The side panel: what the model knows of this session, and how its next list changed with the latest action. */

import { element } from "./dom.js";

const LENGTH = 8;
const TYPES = { search: "searched", view: "viewed", add_to_cart: "put into the cart", purchase: "bought" };

export class Panel {
  #session;
  #root;
  #shown = null; // key of the session that the lists belong to
  #before = null;
  #after = null;

  constructor(session, root) {
    this.#session = session;
    this.#root = root;
    session.addEventListener("change", () => this.refresh());
  }

  /** Asks for the next list if the session has changed, and draws the panel. */
  async refresh() {
    const key = JSON.stringify([this.#session.userId, this.#session.actions]);
    if (key !== this.#shown) {
      const isSameShopper = this.#shown !== null && JSON.parse(this.#shown)[0] === this.#session.userId;
      this.#shown = key;
      try {
        const next = await this.#session.nextList(LENGTH);
        if (key !== this.#shown) return; // a later action was faster
        this.#before = isSameShopper ? this.#after : null;
        this.#after = next;
      } catch (error) {
        this.#root.replaceChildren(element("p", {}, `The next list could not be fetched: ${error.message}`));
        return;
      }
    }
    this.#draw();
  }

  #draw() {
    const { actions, latestList, userId } = this.#session;
    const next = this.#after;
    this.#root.replaceChildren(
      element(
        "dl",
        { class: "facts" },
        ...fact("Shopper", userId === null ? "new visitor" : userId),
        ...fact("Model version", next?.model_version),
        ...fact("Experiment arm", latestList?.arm ?? "none"),
        ...fact("Purchase intent", percentage(next?.purchase_intent)),
        ...fact("Latency", next ? `${next.milliseconds.toFixed(0)} ms` : null),
      ),
      element("h3", {}, "Actions of this session"),
      actions.length
        ? element("ol", { class: "actions" }, actions.map((action) => element("li", {}, element("b", {}, TYPES[action.type]), ` ${action.text}`)))
        : element("p", {}, "None yet. Search, look at a product, or put one into the cart."),
      element("h3", {}, "Next list"),
      next ? this.#list(next.items, this.#before?.items ?? null) : null,
      this.#before ? element("h3", {}, "Before the latest action") : null,
      this.#before ? element("ol", { class: "before" }, this.#before.items.map((item) => element("li", {}, item.title))) : null,
    );
  }

  #list(items, before) {
    const places = new Map((before ?? []).map((item, index) => [item.item_id, index]));
    return element(
      "ol",
      { class: "next", id: "next-list" },
      items.map((item, index) =>
        element(
          "li",
          { "data-item": item.item_id },
          item.title,
          before ? element("span", { class: "move" }, ` ${move(places.get(item.item_id), index)}`) : null,
          element("small", {}, `${item.reason || item.source}`),
        ),
      ),
    );
  }
}

function fact(name, value) {
  return [element("dt", {}, name), element("dd", {}, value ?? "not known")];
}

function percentage(share) {
  return typeof share === "number" ? `${(100 * share).toFixed(1)} %` : null;
}

function move(before, after) {
  if (before === undefined) return "new";
  if (before === after) return "same place";
  return before > after ? `up ${before - after}` : `down ${after - before}`;
}
