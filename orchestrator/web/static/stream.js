// The live line: events as they are committed, read from a streamed answer, mended from the table after every break.

import { call, get } from "./api.js";

const NEWEST = 300;
const MOST_MISSED = 1000;
const SILENCE_MS = 40000; // the master says "still here" every 15 s
const LOOK_MS = 10000; // what other masters did is not on this line
const SLOWEST_MS = 5000;
const REMEMBERED = 4000;

export class EventLine {
  #abort = null; #ended = false; #last = 0; #seen = new Set(); #held = null; #wakeUp = null; #online = () => this.#wakeUp?.();

  /** `onEvents(oldest first)`, `onState("live" | "connecting" | "reconnecting")`, `onGap()`: too much was missed, look at all. */
  constructor({ onEvents, onState, onGap }) {
    Object.assign(this, { onEvents, onState, onGap });
    window.addEventListener("online", this.#online);
  }

  async run() {
    let failures = 0;
    this.onState("connecting");
    while (!this.#ended) {
      try {
        await this.#follow(() => (failures = 0));
      } catch (error) {
        if (error.status === 401) return;
      }
      if (this.#ended) return;
      this.onState("reconnecting");
      const wait = Math.min(SLOWEST_MS, 400 * 2 ** failures++) * (0.7 + 0.6 * Math.random());
      await new Promise((resolve) => {
        this.#wakeUp = resolve;
        setTimeout(resolve, wait);
      });
    }
  }

  end() {
    this.#ended = true;
    this.#abort?.abort();
    this.#wakeUp?.();
    window.removeEventListener("online", this.#online);
  }

  /** One connection, until it breaks. First the line, then the table: nothing falls between the two. */
  async #follow(connected) {
    const abort = (this.#abort = new AbortController());
    this.#held = [];
    const answer = await call("/events/stream", { signal: abort.signal });
    let look;
    let silence = setTimeout(() => abort.abort(), SILENCE_MS);
    const caughtUp = this.#catchUp(abort.signal).then(() => {
      connected();
      this.onState("live");
      look = setInterval(() => this.#lookAgain(abort.signal), LOOK_MS);
    });
    caughtUp.catch(() => abort.abort());
    try {
      for await (const lines of chunks(answer.body)) {
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENCE_MS);
        this.#deliver(lines.filter((line) => line.startsWith("data: ")).map((line) => JSON.parse(line.slice(6))));
      }
    } finally {
      clearTimeout(silence);
      abort.abort();
      await caughtUp.catch(() => {});
      clearInterval(look);
    }
  }

  async #catchUp(signal) {
    const known = this.#last;
    const missed = known ? (await get(`/events?after=${known}&limit=${MOST_MISSED}`, { signal })).items : null;
    if (missed && missed.length < MOST_MISSED) {
      this.#release(missed);
    } else {
      const { items } = await get(`/events?limit=${NEWEST}`, { signal });
      this.#release(items.reverse());
      this.onGap();
    }
  }

  async #lookAgain(signal) {
    if (document.hidden) return;
    try {
      const { items } = await get(`/events?after=${this.#last}&limit=${MOST_MISSED}`, { signal });
      this.#deliver(items);
      if (items.length === MOST_MISSED) this.onGap();
    } catch {
      // the line itself tells when the master is away
    }
  }

  #release(items) {
    const held = this.#held ?? [];
    this.#held = null;
    this.#deliver([...items, ...held]);
  }

  #deliver(items) {
    if (this.#held) {
      this.#held.push(...items);
      if (this.#held.length > REMEMBERED) this.#held.splice(0, this.#held.length - REMEMBERED);
      return;
    }
    const fresh = items.filter((event) => !this.#seen.has(event.id));
    for (const { id } of fresh) {
      this.#seen.add(id);
      this.#last = Math.max(this.#last, id);
    }
    for (const id of this.#seen) {
      if (this.#seen.size <= REMEMBERED) break;
      this.#seen.delete(id);
    }
    if (fresh.length) this.onEvents(fresh);
  }
}

/** Whole lines of a streamed answer, as many at a time as came together. */
async function* chunks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield lines;
  }
}
