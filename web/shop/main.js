/** Starts the storefront: the session, the header, and the page of the address. */

import { element, showProblem } from "./dom.js";
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

let drawing = 0; // number of the latest draw; an earlier one that ends later is dropped

async function draw(session, { hasNavigated = false, focus = null } = {}) {
  const number = ++drawing;
  const address = location.hash;
  content.setAttribute("aria-busy", "true");
  const elements = await page(session, address).catch(failure);
  if (number !== drawing) return;
  content.replaceChildren(...elements.filter(Boolean));
  content.removeAttribute("aria-busy");
  const title = content.querySelector("h1");
  document.title = `${title.textContent} · Shop`;
  if (hasNavigated) {
    scrollTo(0, 0);
    title.focus({ preventScroll: true });
  }
  if (focus !== null) document.getElementById(focus)?.focus();
}

function showUsers(session, users) {
  const select = document.getElementById("shopper");
  const known = session.userId === null || users.includes(session.userId) ? users : [session.userId, ...users];
  const options = [["", "New visitor"], ...known.map((user) => [user, `User ${user}`])];
  select.append(...options.map(([value, text]) => element("option", { value, selected: value === (session.userId ?? "") }, text)));
  select.addEventListener("change", () => {
    session.switchUser(select.value);
    if (["", "#/"].includes(location.hash)) draw(session, { hasNavigated: true });
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
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names the page
    content.focus();
  });
  const input = document.getElementById("query");
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#/search?${new URLSearchParams({ q: input.value })}`;
  });
  suggestWhileTyping(session, input, document.getElementById("suggestions"));
  showUsers(session, config.users);
  document.getElementById("panel").open = !matchMedia(NARROW).matches;
  const panel = new Panel(session, document.getElementById("panel-content"));
  session.addEventListener("change", () => showCart(session));
  window.addEventListener("hashchange", () => {
    showProblem("");
    draw(session, { hasNavigated: true });
  });
  window.addEventListener("redraw", (event) => draw(session, { focus: event.detail }));
  showCart(session);
  await draw(session);
  await panel.refresh();
}

start().catch((error) => content.replaceChildren(...failure(error)));
