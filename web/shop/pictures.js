/** Pictures of products, drawn from their category: a catalog may have no images. */

import { element } from "./dom.js";

const HUES = 12;

/** Returns a decorative picture of an item: a color per top category, a shape and two letters of the lowest category. */
export function picture(title, category) {
  const levels = (category || title).split(">").map((level) => level.trim());
  const hue = (360 / HUES) * (hash(levels[0]) % HUES);
  const shape = hash(levels.at(-1));
  const initials = Array.from(levels.at(-1)).slice(0, 2).join("").toUpperCase();
  return element(
    "svg:svg",
    { viewBox: "0 0 120 90", "aria-hidden": "true", class: "picture" },
    element("svg:rect", { width: 120, height: 90, fill: `hsl(${hue} 45% 88%)` }),
    drawShape(shape, `hsl(${hue} 50% 74%)`),
    element(
      "svg:text",
      { x: 60, y: 57, "text-anchor": "middle", "font-size": 30, "font-weight": 700, fill: `hsl(${hue} 60% 26%)` },
      initials,
    ),
  );
}

function drawShape(seed, fill) {
  const size = 24 + (seed % 12);
  switch (seed % 3) {
    case 0:
      return element("svg:circle", { cx: 60, cy: 46, r: size, fill });
    case 1:
      return element("svg:rect", { x: 60 - size, y: 46 - size, width: 2 * size, height: 2 * size, rx: 10, fill });
    default:
      return element("svg:path", { d: `M60 ${46 - size} L${60 + size} 46 L60 ${46 + size} L${60 - size} 46 Z`, fill });
  }
}

/** FNV-1a (Fowler, Noll and Vo 1991), 32 bits. */
function hash(text) {
  let value = 0x811c9dc5;
  for (const character of text) value = Math.imul(value ^ character.codePointAt(0), 0x01000193) >>> 0;
  return value;
}
