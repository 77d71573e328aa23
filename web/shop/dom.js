/** Builds DOM elements without HTML strings, so that titles and queries cannot inject markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Returns an element.
 *
 * @param {string} name tag name, such as "div" or "svg:rect"
 * @param {object} [attributes] attributes; a function is an event listener; null, undefined and false are omitted
 * @param {...(Node|string|number|null)} children null is omitted
 */
export function element(name, attributes = {}, ...children) {
  const [prefix, local] = name.includes(":") ? name.split(":") : [null, name];
  const created = prefix === "svg" ? document.createElementNS(SVG, local) : document.createElement(local);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") created.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) created.setAttribute(key, value === true ? "" : value);
  }
  created.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return created;
}

const PRICE = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

/** Returns a price as text; empty without one. */
export function priceText(price) {
  return typeof price === "number" ? PRICE.format(price) : "";
}

/** Announces a text to screen readers. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Shows a problem to everybody; an empty text hides it. */
export function showProblem(text) {
  const place = document.getElementById("problem");
  place.textContent = text;
  place.hidden = !text;
}
