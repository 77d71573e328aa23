/** The pages. Each function returns the elements of one page. */

import { announce, element, priceText, showProblem } from "./dom.js";
import { picture } from "./pictures.js";
import { addButton, cards, productAddress } from "./products.js";

const LIST = 12;
const MAX_FACET_VALUES = 12;
const SORTS = {
  relevance: "Relevance",
  popularity: "Popularity",
  price_ascending: "Price, low to high",
  price_descending: "Price, high to low",
  newest: "Newest",
};

/** Returns the home page: the list for the user. */
export async function home(session) {
  const list = await session.recommend({ k: LIST });
  const isPopular = list.items.every((item) => item.source === "popular");
  return [heading(isPopular ? "Popular now" : "Recommended for you"), list.items.length ? cards(session, list) : emptyNote()];
}

/** Returns the search page. `parameters`: q, sort, category, brand, at_least, at_most. */
export async function searchResults(session, parameters) {
  const query = parameters.get("q") ?? "";
  if (!query.trim()) return [heading("Search"), element("p", {}, "Enter something to search for.")];
  const request = {
    query,
    k: 24,
    sort: parameters.get("sort") ?? "relevance",
    facets: ["category", "brand", "price"],
    ...buildFilter(parameters),
  };
  const found = await session.search(request);
  const hasFilter = "filter" in request;
  announce(`${found.total} results for ${query}`);
  return [
    heading(found.fallback ? `Nothing matches “${query}”${hasFilter ? " and the filters" : ""}` : `${found.total} results for “${query}”`),
    ...found.relaxations.map((change) =>
      element("p", { class: "note" }, `Searched for “${change.searched}” instead of “${change.instead_of}”.`),
    ),
    found.fallback ? element("p", { class: "note" }, "You may like:") : null,
    element(
      "div",
      { class: "results" },
      found.fallback && !hasFilter ? null : refinements(parameters, found.facets),
      element("div", {}, cards(session, found), moreButton(session, request, found, found.items.length)),
    ),
  ];
}

/** Returns the product page. `parameters`: request_id and position of the list it was clicked in. */
export async function product(session, itemId, parameters) {
  const { item } = await session.item(itemId);
  const found = { item_id: itemId, title: item.title, category: item.category_path ?? "", brand: item.brand ?? "", price: item.price ?? null };
  const shown = parseImpression(parameters);
  session.view(found, shown).catch((error) => showProblem(`The view could not be recorded: ${error.message}`));
  const [together, similar] = await Promise.all([
    session.recommend({ k: 6, context_items: [itemId] }),
    session.similar(itemId, 6),
  ]);
  return [
    element(
      "article",
      { class: "product" },
      picture(found.title, found.category),
      element(
        "div",
        {},
        heading(found.title),
        element("p", { class: "price" }, priceText(found.price)),
        element("p", {}, found.category),
        found.brand ? element("p", {}, `Brand: ${found.brand}`) : null,
        properties(item.properties ?? {}),
        addButton(session, found, shown),
      ),
    ),
    section("Goes well with this product", together.items.length ? cards(session, together) : emptyNote()),
    section("Similar", similar.items.length ? cards(session, similar) : emptyNote()),
  ];
}

/** Returns the cart page. */
export async function cart(session) {
  const lines = session.cart;
  if (!lines.length) return [heading("Your cart is empty"), element("a", { href: "#/" }, "Continue shopping")];
  const together = await session.recommend({ k: 6, context_items: lines.map((line) => line.item_id).slice(0, 100) });
  const total = lines.reduce((sum, line) => sum + line.quantity * (line.price ?? 0), 0);
  return [
    heading("Cart"),
    element(
      "table",
      { class: "cart" },
      element("thead", {}, element("tr", {}, ["Product", "Quantity", "Price"].map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, lines.map((line) => cartLine(session, line))),
      element(
        "tfoot",
        {},
        element("tr", {}, element("th", { scope: "row", colspan: 2 }, "Total"), element("td", { class: "price" }, priceText(total))),
      ),
    ),
    element("p", { id: "cart-problem", role: "alert" }),
    element("button", { type: "button", class: "buy", click: (event) => buy(session, event.currentTarget) }, "Buy"),
    section("Goes well with your cart", together.items.length ? cards(session, together) : emptyNote()),
  ];
}

/** Returns the order confirmation, with the list after the purchase. */
export async function order(session) {
  const list = await session.recommend({ k: LIST });
  return [
    heading("Thank you"),
    element("p", {}, "Your order is in the event log. The next model is trained on it."),
    section("Next time", cards(session, list)),
  ];
}

/** Returns the error page. */
export function failure(error) {
  const status = error.problem?.status;
  const title = { 404: "Not found", 429: "Too many requests", 503: "The shop is unavailable" }[status] ?? "Something went wrong";
  return [heading(title), element("p", { role: "alert" }, error.problem?.detail ?? error.message), element("a", { href: "#/" }, "Home page")];
}

function heading(text) {
  return element("h1", { tabindex: -1 }, text);
}

function section(title, ...children) {
  return element("section", {}, element("h2", {}, title), ...children);
}

function emptyNote() {
  return element("p", {}, "No products.");
}

function parseImpression(parameters) {
  const requestId = parameters.get("request_id");
  const position = Number(parameters.get("position"));
  if (!requestId) return {};
  return { request_id: requestId, ...(Number.isInteger(position) && position >= 1 ? { position } : {}) };
}

function properties(values) {
  const simple = Object.entries(values).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  if (!simple.length) return null;
  return element("dl", { class: "facts" }, simple.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
}

function cartLine(session, line) {
  const change = ({ currentTarget }) => {
    const quantity = currentTarget.value.trim() === "" ? NaN : Math.floor(Number(currentTarget.value));
    session.setQuantity(line.item_id, Number.isFinite(quantity) ? Math.min(Math.max(quantity, 0), 99) : line.quantity);
    window.dispatchEvent(new CustomEvent("redraw", { detail: `quantity-${line.item_id}` }));
  };
  return element(
    "tr",
    {},
    element("td", {}, element("a", { href: productAddress(line.item_id) }, line.title)),
    element(
      "td",
      {},
      element("input", { id: `quantity-${line.item_id}`, type: "number", min: 0, max: 99, value: line.quantity, "aria-label": `Quantity of ${line.title}`, change }),
    ),
    element("td", { class: "price" }, priceText(line.price === null ? null : line.price * line.quantity)),
  );
}

async function buy(session, button) {
  button.disabled = true;
  try {
    const bought = await session.buy();
    announce(`Bought ${bought.length} products`);
    location.hash = "#/order";
  } catch (error) {
    document.getElementById("cart-problem").textContent = `The order could not be sent: ${error.message}. Try again.`;
    button.disabled = false;
  }
}

/** Facets and sort order of the results; a choice is an address, so that it can be shared and undone with Back. */
function refinements(parameters, facets) {
  const sort = element(
    "select",
    { id: "sort", change: ({ currentTarget }) => (location.hash = addressWith(parameters, { sort: currentTarget.value })) },
    Object.entries(SORTS).map(([value, text]) => element("option", { value, selected: value === (parameters.get("sort") ?? "relevance") }, text)),
  );
  return element(
    "nav",
    { class: "facets", "aria-label": "Refine the results" },
    element("label", { for: "sort" }, "Sort by"),
    sort,
    facet("Category", facets.category, parameters, "category"),
    facet("Brand", facets.brand, parameters, "brand"),
    facet("Price", facets.price, parameters, "price"),
  );
}

function facet(title, values, parameters, name) {
  const active = name === "price" ? parameters.has("at_least") : parameters.has(name);
  if (!active && !(values ?? []).length) return null;
  const none = { [name]: null, ...(name === "price" ? { at_least: null, at_most: null } : {}) };
  return element(
    "div",
    {},
    element("h2", {}, title),
    element(
      "ul",
      {},
      active ? element("li", {}, element("a", { href: addressWith(parameters, none) }, "All")) : null,
      (values ?? []).slice(0, MAX_FACET_VALUES).map((value) =>
        element("li", {}, element("a", { href: addressWith(parameters, choice(name, value)) }, facetText(name, value)), ` (${value.count})`),
      ),
    ),
  );
}

function choice(name, value) {
  return name === "price" ? { at_least: value.at_least, at_most: value.at_most } : { [name]: value.value };
}

function facetText(name, value) {
  return name === "price" ? `${priceText(value.at_least)} to ${priceText(value.at_most)}` : String(value.value);
}

function addressWith(parameters, changes) {
  const changed = new URLSearchParams(parameters);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined) changed.delete(name);
    else changed.set(name, value);
  }
  return `#/search?${changed}`;
}

function buildFilter(parameters) {
  const conditions = [];
  if (parameters.get("category")) conditions.push({ field: "category", under: [parameters.get("category")] });
  if (parameters.get("brand")) conditions.push({ field: "brand", one_of: [parameters.get("brand")] });
  if (parameters.has("at_least")) {
    const atMost = parameters.has("at_most") ? { at_most: Number(parameters.get("at_most")) } : {};
    conditions.push({ field: "price", at_least: Number(parameters.get("at_least")), ...atMost });
  }
  return conditions.length ? { filter: { all: conditions } } : {};
}

function moreButton(session, request, found, offset) {
  if (!found.next_cursor) return null;
  const more = async ({ currentTarget }) => {
    currentTarget.disabled = true;
    try {
      const next = await session.search({ ...request, cursor: found.next_cursor });
      const added = cards(session, next, offset);
      currentTarget.replaceWith(added, ...[moreButton(session, request, next, offset + next.items.length)].filter(Boolean));
      added.querySelector("a")?.focus();
    } catch (error) {
      showProblem(`No more results could be fetched: ${error.message}`);
      currentTarget.disabled = false;
    }
  };
  return element("button", { type: "button", class: "more", click: more }, "Show more");
}
