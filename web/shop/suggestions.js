/** Suggestions below the search box: a combobox with a listbox (ARIA Authoring Practices Guide). */

import { element } from "./dom.js";
import { productAddress } from "./products.js";

const DEBOUNCE_MS = 120;

/** Shows suggestions for what is typed into `input` in `list`; a choice changes the address. */
export function suggestWhileTyping(session, input, list) {
  let timer = null;
  let asked = 0; // number of the latest question; an answer to an earlier one is ignored
  let active = -1;

  const close = () => {
    clearTimeout(timer);
    asked += 1;
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const choose = (option) => {
    close();
    location.hash = option.dataset.address;
  };
  const setActive = (index) => {
    active = index;
    [...list.children].forEach((option, optionIndex) => option.setAttribute("aria-selected", String(optionIndex === index)));
    if (index >= 0) input.setAttribute("aria-activedescendant", list.children[index].id);
    else input.removeAttribute("aria-activedescendant");
  };
  const show = async () => {
    const prefix = input.value.trim();
    if (!prefix) return close();
    const number = ++asked;
    const found = await session.suggest(prefix).catch(() => null); // suggestions are optional: ignore errors
    if (found === null || number !== asked) return undefined;
    const queries = found.queries.map((query) => [query, `#/search?${new URLSearchParams({ q: query })}`, "search"]);
    const items = found.items.map((item) => [item.title, productAddress(item.item_id), "product"]);
    const options = [...queries, ...items].map(([text, address, kind], index) =>
      element(
        "li",
        { role: "option", id: `suggestion-${index}`, "aria-selected": "false", "data-address": address, mousedown: (event) => { event.preventDefault(); choose(event.currentTarget); } },
        text,
        element("small", {}, ` ${kind}`),
      ),
    );
    list.replaceChildren(...options);
    list.hidden = !options.length;
    input.setAttribute("aria-expanded", String(options.length > 0));
    active = -1;
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(show, DEBOUNCE_MS);
  });
  input.addEventListener("blur", close);
  input.form.addEventListener("submit", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (list.hidden) return;
    const count = list.children.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setActive(event.key === "ArrowDown" ? (active + 1) % count : (active <= 0 ? count : active) - 1);
    }
    if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      choose(list.children[active]);
    }
  });
}
