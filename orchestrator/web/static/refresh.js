// Coalesced work: however often it is asked for, it runs alone, at most every `gapMs`, and rests while nobody looks.

const all = new Set();
const SLOWEST_MS = 15000;
const LONGEST_REST_MS = 5000;

export class Refresher {
  #work; #gapMs; #onError; #timer = null; #due = 0; #busy = false; #again = null; #last = 0; #failures = 0; #ended = false;

  constructor(work, { gapMs = 300, onError = () => {} } = {}) {
    this.#work = work;
    this.#gapMs = gapMs;
    this.#onError = onError;
    all.add(this);
  }

  /** Soon; `gapMs` may be larger for news that can wait. */
  ask(gapMs = this.#gapMs) {
    if (this.#ended) return;
    if (this.#busy || document.hidden) {
      this.#again = Math.min(this.#again ?? Infinity, gapMs);
      return;
    }
    const due = Math.max(performance.now(), this.#last + gapMs);
    if (this.#timer !== null) {
      if (due >= this.#due) return;
      clearTimeout(this.#timer);
    }
    this.#due = due;
    this.#timer = setTimeout(() => this.#run(), due - performance.now());
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#timer);
    all.delete(this);
  }

  /** What was asked for meanwhile. */
  wake() {
    if (this.#again === null || this.#busy) return;
    const gap = this.#again;
    this.#again = null;
    this.ask(gap);
  }

  async #run() {
    this.#timer = null;
    this.#busy = true;
    const begun = performance.now();
    try {
      await this.#work();
      this.#failures = 0;
      if (!this.#ended) this.#onError("");
    } catch (error) {
      if (error.name !== "AbortError" && !this.#ended) {
        this.#failures += 1;
        if (error.status !== 0) this.#onError(error.message); // that the master is away is told at the top
        this.#again = Math.min(SLOWEST_MS, 1000 * 2 ** this.#failures);
      }
    }
    this.#busy = false;
    // A slow answer is a busy master: the next one is asked for later.
    this.#last = performance.now() + Math.min(LONGEST_REST_MS, 2 * (performance.now() - begun));
    if (!document.hidden) this.wake();
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) for (const refresher of all) refresher.wake();
});
