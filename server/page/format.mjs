// Numbers as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** A count or a rate: three digits where it is small, whole where it is large. */
export const number = (value) => (value < 100 ? three : whole).format(value);

/** Seconds in the unit that suits them: `850 µs`, `12.3 ms`, `1.5 s`. */
export function duration(seconds) {
  if (seconds < 1e-3) {
    return `${three.format(seconds * 1e6)} µs`;
  }
  return seconds < 1 ? `${three.format(seconds * 1e3)} ms` : `${three.format(seconds)} s`;
}

/** A probability as a percentage with one decimal; never rounded up to certainty. */
export function percent(share) {
  return `${(Math.floor(share * 1000 + 1e-6) / 10).toFixed(1)} %`;
}

/** Bytes: `46 KB`. */
export function bytes(count) {
  if (count < 1000) {
    return `${count} bytes`;
  }
  return count < 1e6 ? `${three.format(count / 1e3)} KB` : `${three.format(count / 1e6)} MB`;
}
