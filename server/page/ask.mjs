// The form that asks one recipe: a text or an image in, and its answer shown.

import { ApiError, address, hasKey, infer, inferPath } from "./api.mjs";
import { inWords, textOf } from "./answers.mjs";
import { draw } from "./answer_view.mjs";
import { byId, el, showProblem } from "./dom.mjs";
import { bytes, duration } from "./format.mjs";

/** A sample's text is shown up to this many characters. */
const SAMPLE_LENGTH = 48;

const form = byId("ask");
const text = byId("text");
const asJson = byId("as-json");
const file = byId("file");
const drop = byId("drop");
const preview = byId("preview");

/** The recipe that is asked, as the server describes it. */
let recipe = null;
/** The image to send. */
let image = null;
/** Stops the request that is under way. */
let underWay = null;
/** What was typed for each recipe, kept while another is tried. */
const drafts = new Map();

/** Wires the form up. `onUnauthorized` is told when the server wants another key. */
export function startAsking(onUnauthorized) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(onUnauthorized);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  file.addEventListener("change", () => take(file.files[0]));
  // The server says what is wrong with it.
  preview.addEventListener("error", () => {
    preview.hidden = true;
  });
  acceptDrops();
  document.addEventListener("paste", (event) => {
    const pasted = event.clipboardData?.files[0];
    if (pasted && takesFiles()) {
      event.preventDefault();
      take(pasted);
    }
  });
  byId("copy").addEventListener("click", copyCurl);
}

/** Turns the form to another recipe. */
export function choose(chosen) {
  underWay?.abort();
  if (recipe) {
    drafts.set(recipe.name, { text: text.value, asJson: asJson.checked });
  }
  recipe = chosen;
  const draft = drafts.get(recipe.name) ?? draftOf(recipe.example[0]);
  text.value = takesFiles() ? "" : draft.text;
  asJson.checked = draft.asJson;
  setImage(null);
  byId("recipe-name").textContent = recipe.name;
  byId("recipe-summary").textContent = recipe.summary ?? "";
  byId("recipe-facts").textContent =
    `${recipe.weights} · ${recipe.dtype} on ${recipe.device} · up to ${recipe.max_batch_size} in a batch`;
  byId("text-part").hidden = takesFiles();
  byId("image-part").hidden = !takesFiles();
  byId("samples").replaceChildren(...samples());
  byId("answer").hidden = true;
  form.hidden = false;
}

const takesFiles = () => recipe?.input_type === "file";

function draftOf(input) {
  return typeof input === "string"
    ? { text: input, asJson: false }
    : { text: JSON.stringify(input), asJson: true };
}

/** The recipe's own example and what else it offers, each a button that runs it. */
function samples() {
  if (takesFiles()) {
    const button = el("button", { type: "button", class: "sample" }, "Example image");
    button.addEventListener("click", () => take(exampleImage()));
    return [button];
  }
  return [...recipe.example, ...(recipe.samples ?? [])].map((input) => {
    const draft = draftOf(input);
    const button = el("button", { type: "button", class: "sample" }, shortened(draft.text));
    button.addEventListener("click", () => {
      text.value = draft.text;
      asJson.checked = draft.asJson;
      form.requestSubmit();
    });
    return button;
  });
}

const shortened = (value) =>
  value.length > SAMPLE_LENGTH ? `${value.slice(0, SAMPLE_LENGTH).trimEnd()}…` : value;

function exampleImage() {
  const decoded = Uint8Array.from(atob(recipe.example[0]), (character) => character.charCodeAt(0));
  return new File([decoded], "example");
}

function acceptDrops() {
  const isOver = (over) => drop.classList.toggle("over", over);
  // Without this a file dropped beside the field would replace the page.
  for (const name of ["dragover", "drop"]) {
    addEventListener(name, (event) => event.preventDefault());
  }
  drop.addEventListener("dragover", () => isOver(true));
  drop.addEventListener("dragleave", () => isOver(false));
  drop.addEventListener("drop", (event) => {
    isOver(false);
    take(event.dataTransfer.files[0]);
  });
}

/** Takes an image and asks at once. */
function take(chosen) {
  if (chosen) {
    setImage(chosen);
    form.requestSubmit();
  }
}

function setImage(chosen) {
  URL.revokeObjectURL(preview.src);
  image = chosen;
  // The same file can be chosen again.
  file.value = "";
  preview.hidden = !image;
  drop.classList.toggle("filled", Boolean(image));
  byId("drop-text").replaceChildren(
    ...(image
      ? [el("strong", {}, image.name), ` ${bytes(image.size)}. Choose, drop or paste another.`]
      : [el("strong", {}, "Choose an image"), ", drop one here, or paste it. JPEG, PNG, WebP, GIF, BMP or TIFF."]),
  );
  if (image) {
    preview.src = URL.createObjectURL(image);
    preview.alt = `The image: ${image.name}`;
  } else {
    preview.removeAttribute("src");
  }
}

/** What is to be sent: the input, the body and the arguments of curl; throws an `ApiError` where there is nothing. */
function request() {
  if (takesFiles()) {
    if (!image) {
      throw new ApiError("Choose an image first.", 0);
    }
    const body = new FormData();
    body.append("image", image);
    return { input: "", body, curl: "-F image=@FILE" };
  }
  let input = text.value;
  if (asJson.checked) {
    try {
      input = JSON.parse(text.value);
    } catch (error) {
      throw new ApiError(`This is not JSON: ${error.message}.`, 0);
    }
  }
  const body = JSON.stringify([input]);
  // Within a shell's single quotes only a single quote needs care.
  return { input, body, curl: `-d '${body.replaceAll("'", "'\\''")}'` };
}

async function run(onUnauthorized) {
  underWay?.abort();
  const mine = new AbortController();
  underWay = mine;
  const asked = recipe;
  begin();
  try {
    const { input, body, curl } = request();
    showCurl(curl);
    const { answer, seconds } = await infer(asked.name, body, mine.signal);
    const [prediction] = answer.prediction;
    const words = inWords(prediction);
    end(answer, `In ${duration(seconds)}${words && `: ${words}`}`);
    byId("answer-body").replaceChildren(draw(prediction, textOf(input)));
  } catch (error) {
    if (mine.signal.aborted) {
      return;
    }
    if (!(error instanceof ApiError)) {
      throw error;
    }
    if (error.status === 401) {
      onUnauthorized();
    }
    end(error.body, "");
    showProblem(byId("answer-problem"), error.message);
  }
}

function begin() {
  byId("answer").hidden = false;
  byId("answer").setAttribute("aria-busy", "true");
  byId("answer-status").textContent = "Running…";
  byId("copied").textContent = "";
  showProblem(byId("answer-problem"), null);
}

function end(answer, status) {
  byId("answer").removeAttribute("aria-busy");
  byId("answer-status").textContent = status;
  byId("answer-body").replaceChildren();
  byId("answer-json").parentElement.hidden = answer === null;
  byId("answer-json").textContent = JSON.stringify(answer, null, 2);
}

function showCurl(curl) {
  // The key itself is never shown.
  const key = hasKey() ? '-H "Authorization: Bearer $API_KEY" ' : "";
  byId("answer-curl").textContent = `curl ${key}${curl} ${address(inferPath(recipe.name))}`;
}

async function copyCurl() {
  const copied = byId("copied");
  try {
    await navigator.clipboard.writeText(byId("answer-curl").textContent);
    copied.textContent = "Copied";
  } catch {
    // Browsers lend the clipboard to pages from HTTPS or this machine only.
    copied.textContent = "Select the text to copy it";
  }
}
