// Making and finding elements. Texts only ever become text nodes, so that no answer can become markup.

/** The element with that id, which index.html has. */
export const byId = (id) => document.getElementById(id);

/**
 * An element: `el("li", { class: "row", hidden: true }, "text", otherElement)`.
 * Attributes that are false, null or undefined are left out; true ones are set without a value.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children);
  return element;
}

/** Shows a problem in an element made for it, or hides that element again. */
export function showProblem(element, text) {
  element.hidden = !text;
  element.textContent = text ?? "";
}

/** A bar that fills a share, 0 to 1, of its width. Decoration: the number stands beside it. */
export function bar(share) {
  const element = el("span", { class: "bar", "aria-hidden": "true" });
  // Through the object model: the Content-Security-Policy forbids style attributes in markup.
  element.style.setProperty("--share", Math.min(1, Math.max(0, share)));
  return element;
}
