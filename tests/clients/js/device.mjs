/**
 * One device of one person: a matrix-js-sdk client with Rust cryptography, and a journal of what it
 * has seen. Every method that is not private is a method of the protocol in driver.mjs: it takes one
 * object of parameters and returns what can be written as JSON.
 */
import { readFile, writeFile } from "node:fs/promises";
import {
    AutoDiscovery, ClientEvent, createClient, HttpApiEvent, MatrixEventEvent, NotificationCountType, RoomEvent,
    RoomMemberEvent, RoomStateEvent, SyncState,
} from "matrix-js-sdk";
import {
    AllDevicesIsolationMode, CryptoEvent, decodeRecoveryKey, EventShieldColour, EventShieldReason,
    OnlySignedDevicesIsolationMode,
} from "matrix-js-sdk/lib/crypto-api/index.js";
import { RustBackupManager } from "matrix-js-sdk/lib/rust-crypto/backup.js";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";
import { decryptAttachment, encryptAttachment } from "./attachments.mjs";
import { OAuthSignIn } from "./oauth.mjs";
import { Verifications } from "./verification.mjs";
import { Waiting } from "./waiting.mjs";

// So that a server is not asked by all its clients at once, a client waits up to 10 s before it backs
// up a key. Here there are few.
RustBackupManager.maxBackupLoopStartDelayMillis = 500;

const POLL_RESPONSE = "org.matrix.msc3381.poll.response";
const POLL_START = "org.matrix.msc3381.poll.start";
const TEXT = "org.matrix.msc1767.text";
const WHOLE_LIST = { last: 99, timeline_limit: 30, required_state: [["*", "*"]] };

export class Device {
    #client;
    #session; // base_url, user_id, device_id, access_token, password
    #options;
    #recoveryKey; // raw bytes of the secret storage key, once known
    #journal = new Map(); // event id -> MatrixEvent, in the order of arrival
    #receipts = [];
    #typing = new Map(); // room -> user ids
    #sliding;
    #lastError;
    #loggedOut;
    #oauth = new OAuthSignIn();
    #waiting = new Waiting(() => this.#situation());
    #verifications = new Verifications(this.#waiting);

    // --- the session ---------------------------------------------------------------------------

    /** Finds the server from nothing but a user id, by well-known (spec: "Server Discovery"). */
    async discover({ userId }) {
        const serverName = userId.slice(userId.indexOf(":") + 1);
        const found = (await AutoDiscovery.findClientConfig(serverName))["m.homeserver"];
        if (found.state !== AutoDiscovery.SUCCESS) {
            throw new Error(`discovery of ${serverName} ended in ${found.state}: ${found.error}`);
        }
        return { base_url: found.base_url };
    }

    async login({ baseUrl, userId, password, token, deviceName, deviceId }) {
        const anonymous = createClient({ baseUrl });
        const answer = await anonymous.loginRequest({
            ...(token
                ? { type: "m.login.token", token }
                : { type: "m.login.password", identifier: { type: "m.id.user", user: userId }, password }),
            initial_device_display_name: deviceName,
            device_id: deviceId,
        });
        this.#session = { ...answer, base_url: baseUrl, password };
        return { user_id: answer.user_id, device_id: answer.device_id, access_token: answer.access_token };
    }

    /** One step of signing in by OAuth: a method of OAuthSignIn. */
    async oauth({ step, ...params }) {
        return this.#oauth[step](params);
    }

    /** Goes on with a session that somebody else has opened. */
    async use({ baseUrl, userId, deviceId, accessToken, password }) {
        this.#session = {
            base_url: baseUrl, user_id: userId, device_id: deviceId, access_token: accessToken, password,
        };
        return { user_id: userId, device_id: deviceId, access_token: accessToken };
    }

    /**
     * Starts encryption and /sync, and waits for the first answer.
     *
     * `sync` is "classic" or "sliding"; `excludeInsecureDevices` is the stricter mode, in which keys
     * are neither shared with nor accepted from devices that their owner has not signed.
     * `initialSyncLimit` is the length of a room's timeline in the first answer of the classic sync;
     * `list` what the sliding one asks for at first.
     */
    async start({
        sync = "classic", excludeInsecureDevices = false, initialSyncLimit = 30, list = WHOLE_LIST, timeoutMs,
    } = {}) {
        this.#options = { sync, excludeInsecureDevices, initialSyncLimit, list };
        const session = this.#session;
        const client = createClient({
            baseUrl: session.base_url,
            userId: session.user_id,
            deviceId: session.device_id,
            accessToken: session.access_token,
            timelineSupport: true,
            verificationMethods: ["m.sas.v1"],
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) => {
                    if (!this.#recoveryKey) return null;
                    const wanted = (await client.secretStorage.getDefaultKeyId()) ?? Object.keys(keys)[0];
                    return wanted in keys ? [wanted, this.#recoveryKey] : null;
                },
                cacheSecretStorageKey: (_id, _info, key) => {
                    this.#recoveryKey = key;
                },
            },
        });
        this.#client = client;
        await client.initRustCrypto({ cryptoDatabasePrefix: `${session.user_id}/${session.device_id}` });
        client.getCrypto().setDeviceIsolationMode(
            excludeInsecureDevices ? new OnlySignedDevicesIsolationMode() : new AllDevicesIsolationMode(false),
        );
        this.#observe(client);
        const common = { initialSyncLimit, lazyLoadMembers: true, threadSupport: true, pollTimeout: 20_000 };
        if (sync === "sliding") {
            const { last, ...timeline } = list;
            const lists = new Map([["all", { ranges: [[0, last]], ...timeline }]]);
            this.#sliding = new SlidingSync(session.base_url, lists, timeline, client, 20_000);
            common.slidingSync = this.#sliding;
        }
        await client.startClient(common);
        await this.#waiting.until(
            "the first sync",
            () => [SyncState.Prepared, SyncState.Syncing].includes(client.getSyncState()),
            { timeoutMs },
        );
        return {};
    }

    /** What a reload of the page does: everything in memory is lost, the device's own database is not. */
    async reload({ timeoutMs } = {}) {
        await this.stop();
        this.#journal.clear();
        this.#receipts = [];
        this.#typing.clear();
        return this.start({ ...this.#options, timeoutMs });
    }

    async stop() {
        this.#client?.stopClient();
        this.#client?.removeAllListeners();
        this.#client = undefined;
        return {};
    }

    async logout() {
        await this.#client.logout(true);
        return {};
    }

    /** Waits until the server has ended this session. */
    async logged_out({ timeoutMs }) {
        const error = await this.#waiting.until("the end of the session", () => this.#loggedOut, { timeoutMs });
        return { errcode: error.errcode };
    }

    #observe(client) {
        const nudge = () => this.#waiting.nudge();
        client.on(ClientEvent.Sync, (_state, _previous, data) => {
            if (data?.error) this.#lastError = data.error;
            nudge();
        });
        client.on(HttpApiEvent.SessionLoggedOut, (error) => {
            this.#loggedOut = error;
            nudge();
        });
        client.on(ClientEvent.Event, (event) => {
            // Ephemeral and account data events have no id, and are no part of a room's history.
            if (event.getId() && event.getRoomId()) {
                this.#journal.set(event.getId(), event);
                void client.decryptEventIfNeeded(event).then(nudge, nudge);
            }
            nudge();
        });
        client.on(RoomEvent.Receipt, (event, room) => {
            for (const [eventId, types] of Object.entries(event.getContent())) {
                for (const [type, users] of Object.entries(types)) {
                    for (const [userId, data] of Object.entries(users)) {
                        this.#receipts.push({
                            room_id: room.roomId, event_id: eventId, user_id: userId, type,
                            thread_id: data.thread_id ?? null,
                        });
                    }
                }
            }
            nudge();
        });
        client.on(RoomMemberEvent.Typing, (event, member) => {
            this.#typing.set(member.roomId, event.getContent().user_ids);
            nudge();
        });
        for (const name of [
            ClientEvent.Room, ClientEvent.AccountData, ClientEvent.ToDeviceEvent, MatrixEventEvent.Decrypted,
            MatrixEventEvent.Replaced, RoomEvent.Timeline, RoomEvent.MyMembership, RoomEvent.Redaction,
            RoomEvent.LocalEchoUpdated, RoomEvent.UnreadNotifications, RoomStateEvent.Events, RoomStateEvent.Members,
            RoomMemberEvent.Membership, CryptoEvent.DevicesUpdated, CryptoEvent.KeysChanged,
            CryptoEvent.UserTrustStatusChanged, CryptoEvent.KeyBackupStatus, CryptoEvent.KeyBackupDecryptionKeyCached,
            CryptoEvent.KeyBackupSessionsRemaining,
        ]) {
            client.on(name, nudge);
        }
        this.#verifications.follow(client);
    }

    #situation() {
        const latest = [...this.#journal.values()].slice(-8).map((event) => {
            const { type, sender, body, failure } = this.#plain(event);
            return `${type} of ${sender}${body ? ` "${body}"` : ""}${failure ? ` [${failure}]` : ""}`;
        });
        const error = this.#lastError ? `, last error ${this.#lastError.message}` : "";
        return `sync is ${this.#client?.getSyncState()}${error}; the latest events: ${latest.join(" | ") || "none"}`;
    }

    #room(roomId) {
        const room = this.#client.getRoom(roomId);
        if (!room) throw new Error(`${this.#session.user_id} does not know the room ${roomId}`);
        return room;
    }

    // --- rooms ---------------------------------------------------------------------------------

    async create_room({ name, invite = [], encrypted = true, direct = false, options = {}, timeoutMs }) {
        const { initial_state: state = [], ...others } = options;
        const encryption = {
            type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" },
        };
        const { room_id: roomId } = await this.#client.createRoom({
            name,
            invite,
            is_direct: direct,
            preset: direct ? "trusted_private_chat" : "private_chat",
            initial_state: encrypted ? [encryption, ...state] : state,
            ...others,
        });
        if (direct) await this.#markDirect(roomId, invite);
        await this.#waiting.until(
            `its own new room ${roomId}`,
            () => {
                const room = this.#client.getRoom(roomId);
                return room?.getMyMembership() === "join" && (!encrypted || room.hasEncryptionStateEvent());
            },
            { timeoutMs },
        );
        return { room_id: roomId };
    }

    async #markDirect(roomId, userIds) {
        const direct = structuredClone(this.#client.getAccountData("m.direct")?.getContent() ?? {});
        for (const userId of userIds) direct[userId] = [...(direct[userId] ?? []), roomId];
        await this.#client.setAccountData("m.direct", direct);
    }

    async invite({ roomId, userId }) {
        await this.#client.invite(roomId, userId);
        return {};
    }

    /** Waits for an invitation: of that room, or of that inviter, or any. */
    async invited({ roomId, inviter, timeoutMs }) {
        const room = await this.#waiting.until(
            "an invitation",
            () =>
                this.#client.getRooms().find(
                    (room) =>
                        room.getMyMembership() === "invite" &&
                        (!roomId || room.roomId === roomId) &&
                        (!inviter || room.getDMInviter() === inviter || this.#inviter(room) === inviter),
                ),
            { timeoutMs },
        );
        return { room_id: room.roomId, inviter: this.#inviter(room) };
    }

    #inviter(room) {
        return room.getMember(this.#session.user_id)?.events.member?.getSender() ?? null;
    }

    async join({ roomId, timeoutMs }) {
        const { roomId: joined } = await this.#client.joinRoom(roomId);
        await this.#waiting.until(
            `the room ${joined} after joining it`,
            () => this.#client.getRoom(joined)?.getMyMembership() === "join",
            { timeoutMs },
        );
        return { room_id: joined };
    }

    async leave({ roomId }) {
        await this.#client.leave(roomId);
        return {};
    }

    async sees_member({ roomId, userId, membership = "join", timeoutMs }) {
        await this.#waiting.until(
            `${userId} to be "${membership}" in ${roomId}`,
            async () => {
                const room = this.#client.getRoom(roomId);
                await room?.loadMembersIfNeeded();
                return room?.getMember(userId)?.membership === membership;
            },
            { timeoutMs },
        );
        return {};
    }

    // --- sending -------------------------------------------------------------------------------

    async says({ roomId, body, thread, replyTo, mentions, msgtype = "m.text" }) {
        const content = { msgtype, body };
        if (mentions) content["m.mentions"] = { user_ids: mentions };
        if (replyTo) content["m.relates_to"] = { "m.in_reply_to": { event_id: replyTo } };
        return this.#sent(await this.#client.sendMessage(roomId, thread ?? null, content));
    }

    async send({ roomId, type, content, thread }) {
        return this.#sent(await this.#client.sendEvent(roomId, thread ?? null, type, content));
    }

    async send_state({ roomId, type, stateKey = "", content }) {
        return this.#sent(await this.#client.sendStateEvent(roomId, type, content, stateKey));
    }

    #sent({ event_id: eventId }) {
        return { event_id: eventId };
    }

    async reacts({ roomId, eventId, key }) {
        const content = { "m.relates_to": { rel_type: "m.annotation", event_id: eventId, key } };
        return this.#sent(await this.#client.sendEvent(roomId, null, "m.reaction", content));
    }

    async edits({ roomId, eventId, body }) {
        return this.#sent(
            await this.#client.sendEvent(roomId, null, "m.room.message", {
                msgtype: "m.text",
                body: `* ${body}`,
                "m.new_content": { msgtype: "m.text", body },
                "m.relates_to": { rel_type: "m.replace", event_id: eventId },
            }),
        );
    }

    async redacts({ roomId, eventId, reason }) {
        return this.#sent(await this.#client.redactEvent(roomId, eventId, undefined, { reason }));
    }

    async asks_poll({ roomId, question, answers }) {
        const options = answers.map((text, at) => ({ id: String(at + 1), [TEXT]: text }));
        const poll = { kind: "org.matrix.msc3381.poll.disclosed", max_selections: 1, question: { [TEXT]: question } };
        const content = { [POLL_START]: { ...poll, answers: options }, [TEXT]: question };
        return this.#sent(await this.#client.sendEvent(roomId, null, POLL_START, content));
    }

    async answers_poll({ roomId, pollId, answers }) {
        const relation = { rel_type: "m.reference", event_id: pollId };
        const content = { "m.relates_to": relation, [POLL_RESPONSE]: { answers } };
        return this.#sent(await this.#client.sendEvent(roomId, null, POLL_RESPONSE, content));
    }

    async sends_file({ roomId, path, name, mimetype = "application/octet-stream" }) {
        const plaintext = await readFile(path);
        const content = { msgtype: "m.file", body: name, filename: name, info: { size: plaintext.length, mimetype } };
        const upload = async (bytes, type) => {
            return (await this.#client.uploadContent(new Blob([bytes]), { type, includeFilename: false })).content_uri;
        };
        if (!this.#room(roomId).hasEncryptionStateEvent()) {
            return this.#sent(await this.#client.sendMessage(roomId, { ...content, url: await upload(plaintext, mimetype) }));
        }
        const { ciphertext, file } = await encryptAttachment(plaintext);
        const url = await upload(ciphertext, "application/octet-stream");
        return this.#sent(await this.#client.sendMessage(roomId, { ...content, file: { ...file, url } }));
    }

    async saves_file({ eventId, path, timeoutMs }) {
        const { file, url } = (await this.#find(eventId, timeoutMs)).getContent();
        const address = this.#client.mxcUrlToHttp(file?.url ?? url, undefined, undefined, undefined, false, true, true);
        const answer = await fetch(address, { headers: { Authorization: `Bearer ${this.#client.getAccessToken()}` } });
        if (!answer.ok) throw new Error(`the download answered ${answer.status}: ${await answer.text()}`);
        const bytes = new Uint8Array(await answer.arrayBuffer());
        await writeFile(path, file ? await decryptAttachment(bytes, file) : bytes);
        return { size: bytes.length, headers: Object.fromEntries(answer.headers) };
    }

    async marks_read({ eventId, timeoutMs }) {
        await this.#client.sendReadReceipt(await this.#find(eventId, timeoutMs));
        return {};
    }

    async types({ roomId, typing = true }) {
        await this.#client.sendTyping(roomId, typing, 20_000);
        return {};
    }

    // --- reading -------------------------------------------------------------------------------

    /** The event, which may still be on its way: an answer to /send can overtake the /sync that brings it. */
    async #find(eventId, timeoutMs) {
        const arrived = () => this.#journal.get(eventId);
        return this.#current(await this.#waiting.until(`the event ${eventId}`, arrived, { timeoutMs }));
    }

    /** The SDK may hold another object of the same event, to which edits and redactions are applied. */
    #current(event) {
        return this.#client?.getRoom(event.getRoomId())?.findEventById(event.getId()) ?? event;
    }

    #plain(seen) {
        const event = this.#current(seen);
        const content = event.getContent();
        return {
            event_id: event.getId(),
            room_id: event.getRoomId(),
            sender: event.getSender(),
            type: event.getType(),
            state_key: event.getStateKey() ?? null,
            body: content.body ?? null,
            content,
            relates_to: event.getWireContent()["m.relates_to"] ?? event.getOriginalContent()["m.relates_to"] ?? null,
            thread: event.threadRootId ?? null,
            encrypted: event.isEncrypted(),
            failure: event.decryptionFailureReason ?? null,
            redacted: event.isRedacted(),
            edited: Boolean(event.replacingEvent()),
            origin_server_ts: event.getTs(),
        };
    }

    #isUndecided(seen) {
        const event = this.#current(seen);
        return event.getType() === "m.room.encrypted" && event.decryptionFailureReason === null && !event.isRedacted();
    }

    #matching({ roomId, after, eventId, sender, type, body, contains, relatesTo, failed = false, edited, redacted }) {
        const wanted = [];
        let reached = !after;
        for (const seen of this.#journal.values()) {
            // An event whose decryption is still under way is neither readable nor failed.
            if (reached && (failed === null || !this.#isUndecided(seen))) {
                const event = this.#plain(seen);
                if (
                    (!roomId || event.room_id === roomId) &&
                    (!eventId || event.event_id === eventId) &&
                    (!sender || event.sender === sender) &&
                    (!type || event.type === type) &&
                    (body === undefined || event.body === body) &&
                    (contains === undefined || event.body?.includes(contains)) &&
                    (!relatesTo || event.relates_to?.event_id === relatesTo) &&
                    (failed === null || failed === (event.failure !== null)) &&
                    (edited === undefined || edited === event.edited) &&
                    (redacted === undefined || redacted === event.redacted)
                ) {
                    wanted.push(event);
                }
            }
            if (seen.getId() === after) reached = true;
        }
        return wanted;
    }

    /**
     * Waits for the first event that matches; `failed: true` for one that cannot be decrypted (then
     * with its reason), null for either. `after` is the id of an event that must have come before.
     */
    async reads({ timeoutMs, ...match }) {
        return this.#waiting.until(`an event ${JSON.stringify(match)}`, () => this.#matching(match)[0], { timeoutMs });
    }

    /** All events so far that match, in the order of arrival. */
    async events(match) {
        return this.#matching({ failed: null, ...match });
    }

    /** Fetches older events of the room into the journal's front; decrypts what it can. */
    async scrolls_back({ roomId, limit = 100 }) {
        const room = this.#room(roomId);
        await this.#client.scrollback(room, limit);
        const older = room.getLiveTimeline().getEvents();
        for (const event of older) await this.#client.decryptEventIfNeeded(event);
        const known = [...older, ...this.#journal.values()];
        this.#journal = new Map(known.map((event) => [event.getId(), event]));
        return { count: older.length };
    }

    /** The colour and reason that a client shows beside an event about who wrote it. */
    async shield({ eventId, timeoutMs }) {
        const info = await this.#client.getCrypto().getEncryptionInfoForEvent(await this.#find(eventId, timeoutMs));
        if (!info) return { colour: null, reason: null };
        return {
            colour: EventShieldColour[info.shieldColour],
            reason: info.shieldReason === null ? null : EventShieldReason[info.shieldReason],
        };
    }

    /** Waits for so many reactions with that key; returns who gave them. */
    async reactions({ roomId, eventId, key, count = 1, timeoutMs }) {
        const senders = await this.#waiting.until(
            `${count} reactions ${key} on ${eventId}`,
            () => {
                const relations = this.#room(roomId).relations.getChildEventsForEvent(eventId, "m.annotation", "m.reaction");
                const found = relations?.getSortedAnnotationsByKey()?.find(([name]) => name === key)?.[1];
                return found && found.size >= count ? [...found].map((event) => event.getSender()) : undefined;
            },
            { timeoutMs },
        );
        return { senders };
    }

    async receipt_of({ userId, eventId, type, timeoutMs }) {
        return this.#waiting.until(
            `a receipt of ${userId} on ${eventId}`,
            () =>
                this.#receipts.find(
                    (receipt) =>
                        receipt.user_id === userId && receipt.event_id === eventId && (!type || receipt.type === type),
                ),
            { timeoutMs },
        );
    }

    async sees_typing({ roomId, userId, typing = true, timeoutMs }) {
        await this.#waiting.until(
            `${userId} ${typing ? "to type" : "to stop typing"}`,
            () => (this.#typing.get(roomId) ?? []).includes(userId) === typing,
            { timeoutMs },
        );
        return {};
    }

    /** The counts that the client shows: of the main timeline, and of each thread. */
    async unread({ roomId }) {
        const room = this.#room(roomId);
        const threads = {};
        for (const thread of room.getThreads()) {
            threads[thread.id] = {
                notifications: room.getThreadUnreadNotificationCount(thread.id, NotificationCountType.Total),
                highlights: room.getThreadUnreadNotificationCount(thread.id, NotificationCountType.Highlight),
            };
        }
        return {
            notifications: room.getRoomUnreadNotificationCount(NotificationCountType.Total),
            highlights: room.getRoomUnreadNotificationCount(NotificationCountType.Highlight),
            threads,
        };
    }

    /** What a room list shows: of each room the membership, the latest events, and the counts. */
    async rooms({ latest = 3 } = {}) {
        const rooms = {};
        for (const room of this.#client.getRooms()) {
            const shown = room.getLiveTimeline().getEvents().filter((event) => event.status === null);
            rooms[room.roomId] = {
                membership: room.getMyMembership(),
                name: room.name,
                latest: shown.slice(-latest).map((event) => event.getId()),
                notifications: room.getUnreadNotificationCount(NotificationCountType.Total),
                highlights: room.getUnreadNotificationCount(NotificationCountType.Highlight),
            };
        }
        return { rooms };
    }

    /** Asks the sliding sync for the rooms up to the index `last` from now on. */
    async widens_list({ last }) {
        this.#sliding.setListRanges("all", [[0, last]]);
        return {};
    }

    /** Waits until the list shows so many rooms by the names that they were given. */
    async lists_rooms({ count, timeoutMs }) {
        const named = () =>
            this.#client.getRooms().filter((room) => room.currentState.getStateEvents("m.room.name", "")).length;
        await this.#waiting.until(`${count} rooms with names`, () => named() >= count, { timeoutMs });
        return { count: named() };
    }

    async unread_becomes({ roomId, notifications, highlights, timeoutMs }) {
        return this.#waiting.until(
            `unread counts ${notifications}/${highlights}`,
            async () => {
                const counts = await this.unread({ roomId });
                const same =
                    (notifications === undefined || counts.notifications === notifications) &&
                    (highlights === undefined || counts.highlights === highlights);
                return same ? counts : undefined;
            },
            { timeoutMs },
        );
    }

    // --- identity ------------------------------------------------------------------------------

    get #crypto() {
        return this.#client.getCrypto();
    }

    /** Answers user-interactive authentication with the password, if the server asks for it. */
    #withPassword = async (makeRequest) => {
        try {
            return await makeRequest(null);
        } catch (error) {
            if (error.httpStatus !== 401 || !error.data?.flows) throw error;
            return makeRequest({
                type: "m.login.password",
                identifier: { type: "m.id.user", user: this.#session.user_id },
                password: this.#session.password,
                session: error.data.session,
            });
        }
    };

    /** Makes cross-signing keys, secret storage and a key backup, as a client does for a new account. */
    async sets_up_identity({ backup = true } = {}) {
        await this.#crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: this.#withPassword });
        return this.#newSecretStorage(backup);
    }

    async #newSecretStorage(setupNewKeyBackup) {
        const recoveryKey = await this.#crypto.createRecoveryKeyFromPassphrase();
        await this.#crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => recoveryKey,
            setupNewSecretStorage: true,
            setupNewKeyBackup,
        });
        await this.#waiting.until("secret storage and cross-signing to be ready", async () =>
            (await this.#crypto.isSecretStorageReady()) && (await this.#crypto.isCrossSigningReady()),
        );
        return { recovery_key: recoveryKey.encodedPrivateKey };
    }

    /** Gives up the old identity for a new one, as somebody does who has lost every device and key. */
    async resets_identity() {
        await this.#crypto.resetEncryption(this.#withPassword);
        return this.#newSecretStorage(false);
    }

    /** Unlocks secret storage on a new device: it signs itself and learns the backup's key. */
    async recovers({ recoveryKey }) {
        this.#recoveryKey = decodeRecoveryKey(recoveryKey);
        // The private keys are only imported beside the public ones that they belong to.
        await this.#crypto.userHasCrossSigningKeys(this.#session.user_id, true);
        await this.#crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: this.#withPassword });
        await this.#crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        await this.#crypto.checkKeyBackupAndEnable();
        return {};
    }

    /** Imports every key of the backup. */
    async restores_backup() {
        const { imported, total } = await this.#crypto.restoreKeyBackup();
        return { imported, total };
    }

    /** Waits until the server's backup holds every room key that this device holds. */
    async backup_is_complete({ timeoutMs }) {
        let held, info;
        return this.#waiting.until(
            () => `the backup to be complete (${info?.count} of ${held} keys in version ${info?.version})`,
            async () => {
                held = (await this.#crypto.exportRoomKeys()).length;
                // Not by the SDK, which would answer from its memory.
                const path = "/_matrix/client/v3/room_keys/version";
                info = await this.#client.http.authedRequest("GET", path, undefined, undefined, { prefix: "" });
                return held > 0 && info.count >= held ? { version: info.version, count: info.count } : undefined;
            },
            { timeoutMs, everyMs: 500 },
        );
    }

    async identity() {
        const status = await this.#crypto.getCrossSigningStatus();
        const own = await this.#crypto.getOwnDeviceKeys();
        return {
            master_key: await this.#crypto.getCrossSigningKeyId(),
            cross_signing_ready: await this.#crypto.isCrossSigningReady(),
            secret_storage_ready: await this.#crypto.isSecretStorageReady(),
            backup_version: await this.#crypto.getActiveSessionBackupVersion(),
            private_keys: status.privateKeysCachedLocally,
            ed25519: own.ed25519,
            curve25519: own.curve25519,
        };
    }

    async #devicesOf(userId) {
        const devices = (await this.#crypto.getUserDeviceInfo([userId], true)).get(userId) ?? new Map();
        const listed = [];
        for (const [deviceId, device] of devices) {
            const status = await this.#crypto.getDeviceVerificationStatus(userId, deviceId);
            listed.push({
                device_id: deviceId,
                name: device.displayName ?? null,
                ed25519: device.getFingerprint(),
                signed_by_owner: status?.signedByOwner ?? false,
                trusted: status?.crossSigningVerified ?? false,
            });
        }
        return listed;
    }

    /** The devices of a person as this client sees them, with what it thinks of each. */
    async devices({ userId }) {
        return { devices: await this.#devicesOf(userId ?? this.#session.user_id) };
    }

    /** Waits until this client regards the device as signed by its owner, and as trusted if asked. */
    async sees_device({ userId, deviceId, signed = true, trusted, timeoutMs }) {
        return this.#waiting.until(
            `the device ${deviceId} of ${userId} to be ${trusted ? "trusted" : signed ? "signed" : "known"}`,
            async () =>
                (await this.#devicesOf(userId)).find(
                    (device) =>
                        device.device_id === deviceId &&
                        (!signed || device.signed_by_owner) &&
                        (trusted === undefined || device.trusted === trusted),
                ),
            { timeoutMs, everyMs: 1_000 },
        );
    }

    async #trust(userId) {
        await this.#crypto.getUserDeviceInfo([userId], true);
        const status = await this.#crypto.getUserVerificationStatus(userId);
        return {
            known: status.known,
            verified: status.isCrossSigningVerified(),
            was_verified: status.wasCrossSigningVerified(),
            identity_changed: status.needsUserApproval,
        };
    }

    async trust({ userId }) {
        return this.#trust(userId);
    }

    /** Waits until the opinion on a person has these values. */
    async trust_becomes({ userId, timeoutMs, ...wanted }) {
        return this.#waiting.until(
            `the trust in ${userId} to be ${JSON.stringify(wanted)}`,
            async () => {
                const trust = await this.#trust(userId);
                return Object.entries(wanted).every(([name, value]) => trust[name] === value) ? trust : undefined;
            },
            { timeoutMs, everyMs: 1_000 },
        );
    }

    /** Accepts the changed identity of a person without verification. */
    async accepts_identity({ userId }) {
        await this.#crypto.pinCurrentUserIdentity(userId);
        return {};
    }

    /** All sessions of this account, as the server lists them. */
    async sessions() {
        return this.#client.getDevices();
    }

    // --- verification --------------------------------------------------------------------------

    async requests_verification({ userId, roomId, deviceId }) {
        // The SDK refuses to ask a device or a person that it has not heard of.
        await this.#crypto.userHasCrossSigningKeys(userId ?? this.#session.user_id, true);
        return this.#verifications.request(this.#crypto, {
            userId, roomId, deviceId, ownUserId: this.#session.user_id,
        });
    }

    async accepts_verification(wanted) {
        return this.#verifications.accept(wanted);
    }

    async starts_sas(which) {
        return this.#verifications.start(which);
    }

    async emojis(which) {
        return this.#verifications.emojis(which);
    }

    async confirms_emojis(which) {
        return this.#verifications.confirm(which);
    }

    async refuses_emojis(which) {
        return this.#verifications.mismatch(which);
    }

    async cancels_verification(which) {
        return this.#verifications.cancel(which);
    }

    async verification_done(which) {
        return this.#verifications.done(which);
    }

    async verification_cancelled(which) {
        return this.#verifications.cancelled(which);
    }

    // --- everything else -----------------------------------------------------------------------

    /** An authenticated request of the client-server API that the SDK has no method for. */
    async request({ method, path, query, body }) {
        return this.#client.http.authedRequest(method, path, query, body, { prefix: "" });
    }

    async account_data({ type, content }) {
        if (content) await this.#client.setAccountData(type, content);
        return this.#client.getAccountDataFromServer(type);
    }
}
