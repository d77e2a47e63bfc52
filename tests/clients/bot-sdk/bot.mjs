/**
 * A bot for plain rooms, written as the tutorial of matrix-bot-sdk teaches it.
 *
 *     node bot.mjs HOMESERVER_URL LOCALPART PASSWORD STORAGE_FILE
 *
 * It accepts every invitation, greets whoever says !hello, sets the topic that follows !topic, and
 * sends back, in capitals, the text file that somebody sends. It writes "started" once it syncs.
 */
import { AutojoinRoomsMixin, LogLevel, LogService, MatrixAuth, MatrixClient, SimpleFsStorageProvider } from "matrix-bot-sdk";

const [homeserverUrl, localpart, password, storageFile] = process.argv.slice(2);
LogService.setLevel(LogLevel.WARN);

const { accessToken } = await new MatrixAuth(homeserverUrl).passwordLogin(localpart, password, "bot");
const client = new MatrixClient(homeserverUrl, accessToken, new SimpleFsStorageProvider(storageFile));
AutojoinRoomsMixin.setupOnClient(client);
const ownId = await client.getUserId();

async function greet(roomId, event) {
    await client.unstableApis.addReactionToEvent(roomId, event.event_id, "👋");
    const { displayname } = await client.getUserProfile(event.sender);
    await client.replyNotice(roomId, event, `Hello ${displayname ?? event.sender}!`);
}

async function shout(roomId, { content }) {
    const { data } = await client.downloadContent(content.url);
    const name = content.body.toUpperCase();
    const url = await client.uploadContent(Buffer.from(data.toString().toUpperCase()), "text/plain", name);
    await client.sendMessage(roomId, { msgtype: "m.file", body: name, url });
}

client.on("room.message", async (roomId, event) => {
    if (event.sender === ownId) return;
    const { msgtype, body } = event.content;
    if (msgtype === "m.file") await shout(roomId, event);
    else if (body?.startsWith("!hello")) await greet(roomId, event);
    else if (body?.startsWith("!topic ")) await client.sendStateEvent(roomId, "m.room.topic", "", { topic: body.slice(7) });
});

await client.start();
console.log("started");
