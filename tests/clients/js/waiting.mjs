/**
 * Waiting for a condition without sleeping: whoever changes something that a condition may depend
 * on calls `nudge()`, and every open condition is looked at again.
 */

/** A condition that did not come true in time; the message says what was awaited and what was there. */
export class TimedOut extends Error {
    name = "TimedOut";
}

export class Waiting {
    #open = new Set();
    #describe;

    /** @param describe returns a short text on the present situation, for the message of a time-out. */
    constructor(describe) {
        this.#describe = describe;
    }

    nudge() {
        for (const look of this.#open) look();
    }

    /**
     * `what` is awaited, a text or a function that returns one at the time of the message.
     *
     * Resolves with the first value of `probe` that is not undefined, null or false.
     *
     * `probe` may be async: then it is never run twice at once, and a nudge meanwhile runs it again.
     * `everyMs` also looks at intervals, for what only the server knows.
     */
    until(what, probe, { timeoutMs = 30_000, everyMs } = {}) {
        const name = typeof what === "function" ? what : () => what;
        return new Promise((resolve, reject) => {
            let busy = false;
            let again = false;
            let interval;
            const end = (settle, value) => {
                this.#open.delete(look);
                clearTimeout(timer);
                clearInterval(interval);
                settle(value);
            };
            const look = async () => {
                if (busy) {
                    again = true;
                    return;
                }
                busy = true;
                try {
                    do {
                        again = false;
                        let found = probe();
                        if (found instanceof Promise) found = await found;
                        if (found !== undefined && found !== null && found !== false) {
                            end(resolve, found);
                            return;
                        }
                    } while (again && this.#open.has(look));
                } catch (error) {
                    end(reject, error);
                } finally {
                    busy = false;
                }
            };
            const timer = setTimeout(() => {
                end(reject, new TimedOut(`waited ${timeoutMs / 1000} s for ${name()}; ${this.#describe()}`));
            }, timeoutMs);
            if (everyMs) interval = setInterval(look, everyMs);
            this.#open.add(look);
            look();
        });
    }
}
