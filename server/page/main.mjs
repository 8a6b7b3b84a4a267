// The page: puts its parts together, lists the recipes, and asks for a key where the server wants one.

import { ApiError, hasKey, recipes, useKey } from "./api.mjs";
import { choose, startAsking } from "./ask.mjs";
import { byId, el, showProblem } from "./dom.mjs";
import { offerRecipes, resume, startLive } from "./live.mjs";

const list = byId("recipes");
const keyForm = byId("key-form");
/** The recipe that the address names, `/#transformers_ner`. (Recipes' names need no escapes.) */
const named = () => location.hash.slice(1);

startAsking(wantKey);
startLive(wantKey);
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
  keyForm.hidden = true;
  showRecipes();
  resume();
});
addEventListener("hashchange", () => {
  const wanted = list.querySelector(`input[value="${CSS.escape(named())}"]`);
  if (wanted && !wanted.checked) {
    wanted.click();
  }
});
showRecipes();

async function showRecipes() {
  list.setAttribute("aria-busy", "true");
  try {
    const served = await recipes();
    showProblem(byId("list-problem"), null);
    offerRecipes(served.map(({ name }) => name));
    list.replaceChildren(list.querySelector("legend"), ...served.map(card));
    const chosen = served.find(({ name }) => name === named()) ?? served[0];
    list.querySelector(`input[value="${CSS.escape(chosen.name)}"]`).checked = true;
    choose(chosen);
  } catch (error) {
    if (!(error instanceof ApiError)) {
      throw error;
    }
    if (error.status === 401) {
      wantKey();
    } else {
      showProblem(byId("list-problem"), error.message);
    }
  } finally {
    list.removeAttribute("aria-busy");
  }
}

/** One of the recipes to choose from: a radio button that looks like a card. */
function card(recipe) {
  const radio = el("input", { type: "radio", name: "recipe", value: recipe.name });
  radio.addEventListener("change", () => {
    history.replaceState(null, "", `#${recipe.name}`);
    choose(recipe);
  });
  const takes = recipe.input_type === "file" ? "image" : "text";
  return el(
    "label",
    { class: "recipe" },
    radio,
    el("span", { class: "recipe-name" }, recipe.name),
    el("span", { class: "muted small" }, takes),
  );
}

function wantKey() {
  if (!keyForm.hidden) {
    return;
  }
  keyForm.hidden = false;
  byId("key-reason").textContent = hasKey()
    ? "The server does not accept the key that was given."
    : "Recipes and figures are shown once it has one.";
  byId("key").value = "";
  byId("key").focus();
}
