/** The side panel: model inputs of this session, and the rank changes in the next list. */

import { element } from "./dom.js";

const LENGTH = 8;
const TYPES = { search: "searched", view: "viewed", add_to_cart: "added to the cart", purchase: "bought" };

/** Draws the panel into an element whenever the session changes. */
export class Panel {
  #session;
  #root;
  #shownKey = null; // of the session that the lists belong to
  #previousList = null;
  #nextList = null;

  constructor(session, root) {
    this.#session = session;
    this.#root = root;
    session.addEventListener("change", () => this.refresh());
  }

  /** Asks for the next list if the session has changed, and draws the panel. */
  async refresh() {
    const key = JSON.stringify([this.#session.userId, this.#session.actions]);
    if (key !== this.#shownKey) {
      const isSameUser = this.#shownKey !== null && JSON.parse(this.#shownKey)[0] === this.#session.userId;
      this.#shownKey = key;
      try {
        const next = await this.#session.nextList(LENGTH);
        if (key !== this.#shownKey) return; // a later action was faster
        this.#previousList = isSameUser ? this.#nextList : null;
        this.#nextList = next;
      } catch (error) {
        if (key !== this.#shownKey) return;
        this.#shownKey = this.#nextList = null; // the next change asks again
        this.#root.replaceChildren(element("p", {}, `The next list could not be fetched: ${error.message}`));
        return;
      }
    }
    this.#draw();
  }

  #draw() {
    const { actions, arm, userId } = this.#session;
    const next = this.#nextList;
    this.#root.replaceChildren(
      element(
        "dl",
        { class: "facts" },
        ...fact("User", userId === null ? "new visitor" : userId),
        ...fact("Model version", next?.model_version),
        ...fact("Experiment arm", arm ?? "none"),
        ...fact("Purchase intent", percentage(next?.purchase_intent)),
        ...fact("Latency", next ? `${next.milliseconds.toFixed(0)} ms` : null),
      ),
      element("h3", {}, "Actions of this session"),
      actions.length
        ? element("ol", { class: "actions" }, actions.map((action) => element("li", {}, element("b", {}, TYPES[action.type]), ` ${action.text}`)))
        : element("p", {}, "None yet. Search, look at a product, or add one to the cart."),
      element("h3", {}, "Next list"),
      next ? this.#list(next.items, this.#previousList?.items ?? null) : null,
      this.#previousList ? element("h3", {}, "Previous list") : null,
      this.#previousList ? element("ol", { class: "before" }, this.#previousList.items.map((item) => element("li", {}, item.title))) : null,
    );
  }

  #list(items, before) {
    const positions = new Map((before ?? []).map((item, index) => [item.item_id, index]));
    return element(
      "ol",
      { class: "next", id: "next-list" },
      items.map((item, index) =>
        element(
          "li",
          { "data-item": item.item_id },
          item.title,
          before ? element("span", { class: "move" }, ` ${describeMove(positions.get(item.item_id), index)}`) : null,
          element("small", {}, `${item.reason || item.source}`),
        ),
      ),
    );
  }
}

function fact(name, value) {
  return [element("dt", {}, name), element("dd", {}, value ?? "unknown")];
}

function percentage(share) {
  return typeof share === "number" ? `${(100 * share).toFixed(1)} %` : null;
}

function describeMove(before, after) {
  if (before === undefined) return "new";
  if (before === after) return "unchanged";
  return before > after ? `up ${before - after}` : `down ${after - before}`;
}
