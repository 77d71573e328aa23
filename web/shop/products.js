/** Product cards and rows of them. */

import { announce, element, priceText, showProblem } from "./dom.js";
import { picture } from "./pictures.js";

/** Returns a product as the cart and the events need it, from an item of a list. */
export function toProduct(item) {
  const { category = "", brand = "", price = null } = item.data ?? {};
  return { item_id: item.item_id, title: item.title, category, brand, price };
}

/** Returns the address of a product page; it names the list and the position that the product was clicked in. */
export function productAddress(itemId, shown = {}) {
  const query = new URLSearchParams(shown).toString();
  return `#/item/${encodeURIComponent(itemId)}${query && `?${query}`}`;
}

/**
 * Returns cards of a list's items.
 *
 * @param {Session} session that "Add to cart" acts on
 * @param {object} list items, and the request_id if they are of a recorded list
 * @param {number} [offset] position of the first of these items in the list, minus 1
 */
export function cards(session, list, offset = 0) {
  return element(
    "ul",
    { class: "cards" },
    list.items.map((item, index) => card(session, item, list.request_id ? { request_id: list.request_id, position: offset + index + 1 } : {})),
  );
}

function card(session, item, shown) {
  const product = toProduct(item);
  return element(
    "li",
    { class: "card", "data-item": item.item_id },
    element(
      "a",
      { href: productAddress(item.item_id, shown) },
      picture(product.title, product.category),
      element("span", { class: "title" }, product.title),
    ),
    element("span", { class: "price" }, priceText(product.price)),
    item.reason ? element("small", {}, item.reason) : null,
    addButton(session, product, shown),
  );
}

/** Returns the button that puts a product into the cart. */
export function addButton(session, product, shown) {
  const add = async ({ currentTarget }) => {
    currentTarget.disabled = true;
    try {
      await session.addToCart(product, shown);
      showProblem("");
      announce(`${product.title} is in the cart`);
    } catch (error) {
      showProblem(`${product.title} could not be added to the cart: ${error.message}`);
    } finally {
      currentTarget.disabled = false;
    }
  };
  return element(
    "button",
    { type: "button", class: "add", click: add },
    "Add to cart",
    element("span", { class: "visually-hidden" }, `: ${product.title}`),
  );
}
