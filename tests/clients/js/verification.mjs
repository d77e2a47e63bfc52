/**
 * Interactive verification by short authentication string, in either role, step by step, so that a
 * test can compare what both sides show and can also refuse.
 */
import { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

export class Verifications {
    #requests = new Map(); // handle -> { request, sas, outcome }
    #unclaimed = []; // handles of incoming requests that nobody has taken yet
    #next = 1;
    #waiting;

    constructor(waiting) {
        this.#waiting = waiting;
    }

    follow(client) {
        client.on(CryptoEvent.VerificationRequestReceived, (request) => {
            this.#unclaimed.push(this.#track(request));
            this.#waiting.nudge();
        });
    }

    #track(request) {
        const handle = this.#next++;
        this.#requests.set(handle, { request, sas: undefined, outcome: undefined });
        request.on(VerificationRequestEvent.Change, () => this.#waiting.nudge());
        return handle;
    }

    #get(handle) {
        const entry = this.#requests.get(handle);
        if (!entry) throw new Error(`no verification ${handle}`);
        return entry;
    }

    /** Throws when the other side, or this one, has cancelled: a waiter should not wait for its time-out. */
    #check({ request }) {
        if (request.phase === VerificationPhase.Cancelled) {
            throw new Error(`the verification was cancelled by ${request.cancellingUserId}: ${request.cancellationCode}`);
        }
    }

    /** Asks another user in a room, one own device, or all own devices. */
    async request(crypto, { userId, roomId, deviceId, ownUserId }) {
        let request;
        if (roomId) request = await crypto.requestVerificationDM(userId, roomId);
        else if (deviceId) request = await crypto.requestDeviceVerification(userId ?? ownUserId, deviceId);
        else request = await crypto.requestOwnUserVerification();
        return { handle: this.#track(request) };
    }

    /** Takes the next incoming request of that user, and accepts it. */
    async accept({ userId, timeoutMs }) {
        const handle = await this.#waiting.until(
            `a verification request of ${userId ?? "anybody"}`,
            () => {
                const at = this.#unclaimed.findIndex((candidate) => {
                    const { request } = this.#get(candidate);
                    return request.pending && (!userId || request.otherUserId === userId);
                });
                return at < 0 ? undefined : this.#unclaimed.splice(at, 1)[0];
            },
            { timeoutMs },
        );
        const { request } = this.#get(handle);
        await request.accept();
        return { handle, user_id: request.otherUserId, device_id: request.otherDeviceId, room_id: request.roomId };
    }

    /** Chooses SAS once the other side is ready. Only one of the two calls this. */
    async start({ handle, timeoutMs }) {
        const entry = this.#get(handle);
        await this.#waiting.until(
            "the other side to accept the verification",
            () => this.#check(entry) ?? entry.request.phase === VerificationPhase.Ready,
            { timeoutMs },
        );
        this.#run(entry, await entry.request.startVerification("m.sas.v1"));
        return {};
    }

    #run(entry, verifier) {
        verifier.on(VerifierEvent.ShowSas, (sas) => {
            entry.sas = sas;
            this.#waiting.nudge();
        });
        entry.sas = verifier.getShowSasCallbacks() ?? undefined;
        entry.outcome = "running";
        verifier.verify().then(
            () => this.#end(entry, "done"),
            (error) => this.#end(entry, error),
        );
    }

    #end(entry, outcome) {
        entry.outcome = outcome;
        this.#waiting.nudge();
    }

    /** What this side shows to its person: emojis as [sign, name] and three numbers. */
    async emojis({ handle, timeoutMs }) {
        const entry = this.#get(handle);
        const sas = await this.#waiting.until(
            "the emojis",
            () => {
                this.#check(entry);
                if (entry.outcome instanceof Error) throw entry.outcome;
                if (!entry.outcome && entry.request.verifier) this.#run(entry, entry.request.verifier);
                return entry.sas?.sas;
            },
            { timeoutMs },
        );
        return { emojis: sas.emoji ?? null, decimals: sas.decimal ?? null };
    }

    async confirm({ handle }) {
        await this.#get(handle).sas.confirm();
        return {};
    }

    async mismatch({ handle }) {
        this.#get(handle).sas.mismatch();
        return {};
    }

    async cancel({ handle }) {
        await this.#get(handle).request.cancel();
        return {};
    }

    /** Waits until both sides are done. */
    async done({ handle, timeoutMs }) {
        const entry = this.#get(handle);
        await this.#waiting.until(
            "the verification to complete",
            () => {
                this.#check(entry);
                if (entry.outcome instanceof Error) throw entry.outcome;
                return entry.outcome === "done" && entry.request.phase === VerificationPhase.Done;
            },
            { timeoutMs },
        );
        return {};
    }

    /** Waits until it is cancelled. @returns the code and who did it. */
    async cancelled({ handle, timeoutMs }) {
        const { request } = this.#get(handle);
        await this.#waiting.until("the verification to be cancelled", () => request.phase === VerificationPhase.Cancelled, {
            timeoutMs,
        });
        return { code: request.cancellationCode, by: request.cancellingUserId ?? null };
    }
}
