/**
 * A Matrix client that another program drives: one process is one device.
 *
 * Each line of standard input is `{"id", "method", "params"}`, the methods being those of Device.
 * Each line of standard output is `{"id", "result"}` or `{"id", "error": {message, errcode, status,
 * stack}}`, in the order of completion, so that long waits do not hold up anything. Whatever the SDK
 * logs goes to standard error. The process ends with its standard input: it cannot outlive its parent.
 */
import { Console } from "node:console";
import { createInterface } from "node:readline";

// Before the SDK is loaded: its many loggers take the console's methods at that moment, so that this
// is also where they are silenced. YIZHAN_JS_LOG=1 shows everything.
globalThis.console = new Console(process.stderr, process.stderr);
if (!process.env.YIZHAN_JS_LOG) {
    for (const level of ["trace", "debug", "log", "info"]) console[level] = () => {};
}
await import("fake-indexeddb/auto");
const { Device } = await import("./device.mjs");

const device = new Device();

const write = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function describe(error) {
    return {
        message: error?.message ?? String(error),
        name: error?.name,
        errcode: error?.errcode ?? error?.data?.errcode,
        status: error?.httpStatus,
        stack: error?.stack,
    };
}

async function answer({ id, method, params }) {
    try {
        if (method === "constructor" || typeof device[method] !== "function") throw new Error(`no method ${method}`);
        write({ id, result: (await device[method](params ?? {})) ?? {} });
    } catch (error) {
        write({ id, error: describe(error) });
    }
}

// The SDK leaves some of its background requests unawaited; one that fails must not end the client.
process.on("unhandledRejection", (error) => console.error("unhandled rejection:", error));

const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on("line", (line) => void answer(JSON.parse(line)));
lines.on("close", () => process.exit(0));
write({ id: 0, result: { ready: true } });
