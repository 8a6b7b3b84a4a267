// The live figures: polls /metrics and /readyz every second, not while the tab is hidden or the reader has paused it.

import { ApiError, metrics, readiness } from "./api.mjs";
import { line, rows } from "./charts.mjs";
import { byId, el, showProblem } from "./dom.mjs";
import { between, named, observations, quantile, rate, snapshot } from "./figures.mjs";
import { duration, number } from "./format.mjs";
import { parse } from "./prometheus.mjs";

const PERIOD = 1000;
/** Polls that are kept: a minute's. */
const KEPT = 61;
const PERCENTILES = [50, 90, 99];
const NOTHING = "Nothing yet";

const pause = byId("pause");
const of = byId("live-of");

/** Polls, oldest first: `{ at, metrics }`. Parsed and not summed up, so that another recipe can be looked at. */
let polls = [];
let timer = null;
/** Counts starts, so that a poll that was under way at a stop does not go on. */
let run = 0;
let onUnauthorized = () => {};

/** Begins. `unauthorized` is told when the server wants a key; `resume` is then to be called. */
export function startLive(unauthorized) {
  onUnauthorized = unauthorized;
  document.addEventListener("visibilitychange", resume);
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(!isPaused()));
    resume();
  });
  of.addEventListener("change", show);
  resume();
}

/** The recipes whose figures can be looked at alone. */
export function offerRecipes(names) {
  const chosen = of.value;
  of.replaceChildren(
    el("option", { value: "" }, "All recipes"),
    ...names.map((name) => el("option", { value: name }, name)),
  );
  of.value = names.includes(chosen) ? chosen : "";
}

/** Starts polling, or stops it where it is not wanted now. What was seen before a pause is forgotten: rates are of now. */
export function resume() {
  clearTimeout(timer);
  run += 1;
  if (!document.hidden && !isPaused()) {
    polls = [];
    poll(run);
  }
}

const isPaused = () => pause.getAttribute("aria-pressed") === "true";

async function poll(mine) {
  const [state, figures] = await Promise.allSettled([readiness(), metrics()]);
  if (mine !== run) {
    return;
  }
  showReadiness(state);
  const problem = figures.reason;
  if (problem && !(problem instanceof ApiError)) {
    throw problem;
  }
  showProblem(byId("live-problem"), problem && `No figures. ${problem.message}`);
  if (problem?.status === 401) {
    onUnauthorized();
    return;
  }
  if (!problem) {
    polls = [...polls.slice(1 - KEPT), { at: performance.now(), metrics: parse(figures.value) }];
    show();
  }
  timer = setTimeout(() => poll(mine), PERIOD);
}

function showReadiness({ value, reason }) {
  const pill = byId("readiness");
  const status = value?.status ?? (reason.status === 0 ? "unreachable" : reason.message);
  const text = status[0].toUpperCase() + status.slice(1);
  // Only a change is to be read out.
  if (pill.textContent !== text) {
    pill.textContent = text;
    pill.dataset.state = value?.ready ? "ready" : "waiting";
  }
}

function show() {
  if (polls.length === 0) {
    return;
  }
  const seen = polls.map(({ at, metrics: read }) => snapshot(read, of.value || null, at));
  const last = seen.at(-1);
  const rates = (counter) => seen.slice(1).map((later, place) => rate(seen[place], later, counter) ?? 0);
  const items = rates("items");

  figure("throughput", items.at(-1));
  figure("request-rate", rates("requests").at(-1));
  figure("in-flight", last.inFlight);
  figure("queue-depth", last.queueDepth);
  line(byId("throughput-line"), items, KEPT - 1);
  line(byId("queue-line"), seen.map(({ queueDepth }) => queueDepth), KEPT);
  showLatency(...lately(seen, "durations"));
  showBatches(...lately(seen, "batchSizes"));
  byId("totals").textContent =
    `Since the start: ${number(last.answered)} requests answered, ${number(last.refused)} refused, ${number(last.failed)} failed.`;

  const build = polls.at(-1).metrics.get("galley_build_info")?.[0];
  byId("version").textContent = build?.labels.version ?? "";
}

const figure = (id, value) => {
  byId(id).textContent = value === undefined ? "–" : number(value);
};

/** A histogram of the last minute, or where nothing happened in it, since the server's start; and which of them it is. */
function lately(seen, name) {
  const all = seen.at(-1)[name];
  const recent = between(seen[0][name], all);
  return observations(recent) > 0 ? [recent, "last minute"] : [all, "since the start, none lately"];
}

function showLatency(buckets, span) {
  const times = PERCENTILES.map((percentile) => quantile(buckets, percentile / 100));
  const longest = times.at(-1);
  caption("latency", longest === null ? NOTHING : `Estimated from buckets, ${span}`);
  rows(
    byId("latency"),
    longest === null
      ? []
      : times.map((time, place) => ({
          name: `p${PERCENTILES[place]}`,
          share: time / longest,
          value: duration(time),
        })),
  );
}

function showBatches(buckets, span) {
  const sizes = named(buckets);
  const most = Math.max(...sizes.map(({ count }) => count));
  caption("batches", sizes.length === 0 ? NOTHING : `Batches by their items, ${span}`);
  rows(
    byId("batches"),
    sizes.map(({ name, count }) => ({ name, share: count / most, value: number(count) })),
  );
}

function caption(table, text) {
  byId(table).caption.textContent = text;
}
