/** Start of the storefront: the session, the header, and the page of the address. */

import { element } from "./dom.js";
import { Panel } from "./panel.js";
import { Session } from "./session.js";
import { suggestWhileTyping } from "./suggestions.js";
import { cart, failure, home, order, product, searchResults } from "./views.js";

const NARROW = "(max-width: 60rem)";
const content = document.getElementById("content");

/** Returns the elements of the page at an address such as `#/search?q=milk`. */
async function page(session, address) {
  const [path, query = ""] = address.replace(/^#?\/?/, "").split("?");
  const parameters = new URLSearchParams(query);
  const [name, ...rest] = path.split("/");
  switch (name) {
    case "":
      return home(session);
    case "search":
      return searchResults(session, parameters);
    case "item":
      return product(session, decodeURIComponent(rest.join("/")), parameters);
    case "cart":
      return cart(session);
    case "order":
      return order(session);
    default:
      return failure({ problem: { status: 404, detail: `The address ${address} does not exist.` } });
  }
}

async function draw(session, hasNavigated) {
  const address = location.hash;
  content.setAttribute("aria-busy", "true");
  const elements = await page(session, address).catch(failure);
  if (address !== location.hash) return; // another page was opened meanwhile
  content.replaceChildren(...elements.filter(Boolean));
  content.removeAttribute("aria-busy");
  const title = content.querySelector("h1");
  document.title = `${title.textContent} · Shop`;
  if (hasNavigated) {
    scrollTo(0, 0);
    title.focus({ preventScroll: true });
  }
}

function showShoppers(session, users) {
  const select = document.getElementById("shopper");
  const options = [["", "New visitor"], ...users.map((user) => [user, `Shopper ${user}`])];
  select.append(...options.map(([value, text]) => element("option", { value, selected: value === (session.userId ?? "") }, text)));
  select.addEventListener("change", () => {
    session.become(select.value);
    if (["", "#/"].includes(location.hash)) draw(session, true);
    else location.hash = "#/";
  });
}

function showCart(session) {
  const count = session.cart.reduce((sum, line) => sum + line.quantity, 0);
  document.getElementById("cart-count").textContent = String(count);
}

async function start() {
  const response = await fetch("config.json");
  if (!response.ok) throw new Error(`config.json: status ${response.status}`);
  const config = await response.json();
  const session = new Session(config);
  const input = document.getElementById("query");
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#/search?${new URLSearchParams({ q: input.value })}`;
  });
  suggestWhileTyping(session, input, document.getElementById("suggestions"));
  showShoppers(session, config.users);
  document.getElementById("panel").open = !matchMedia(NARROW).matches;
  const panel = new Panel(session, document.getElementById("panel-content"));
  session.addEventListener("change", () => showCart(session));
  window.addEventListener("hashchange", () => draw(session, true));
  window.addEventListener("redraw", () => draw(session, false));
  showCart(session);
  await draw(session, false);
  await panel.refresh();
}

start().catch((error) => content.replaceChildren(...failure(error)));
