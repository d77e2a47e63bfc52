/**
 * Encrypted attachments: AES-256-CTR with the key as a JWK and a SHA-256 of the ciphertext.
 *
 * Spec: client-server API, "Sending encrypted attachments" (EncryptedFile, version v2).
 */

const unpadded = (bytes) => Buffer.from(bytes).toString("base64").replace(/=+$/, "");
const fromBase64 = (text) => new Uint8Array(Buffer.from(text, "base64"));

/** @returns the ciphertext and the EncryptedFile, to which the caller adds `url`. */
export async function encryptAttachment(plaintext) {
    const iv = new Uint8Array(16);
    // The lower half counts blocks and starts at zero, so that it cannot wrap into the random half.
    crypto.getRandomValues(iv.subarray(0, 8));
    const key = await crypto.subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const jwk = await crypto.subtle.exportKey("jwk", key);
    const ciphertext = await crypto.subtle.encrypt({ name: "AES-CTR", counter: iv, length: 64 }, key, plaintext);
    const hash = await crypto.subtle.digest("SHA-256", ciphertext);
    const file = {
        v: "v2",
        key: { kty: jwk.kty, key_ops: jwk.key_ops, alg: "A256CTR", k: jwk.k, ext: true },
        iv: unpadded(iv),
        hashes: { sha256: unpadded(hash) },
    };
    return { ciphertext: new Uint8Array(ciphertext), file };
}

/** Fails when the ciphertext is not the one whose hash the sender encrypted. */
export async function decryptAttachment(ciphertext, file) {
    const hash = unpadded(await crypto.subtle.digest("SHA-256", ciphertext));
    if (hash !== file.hashes.sha256.replace(/=+$/, "")) throw new Error("the attachment's hash does not match");
    const key = await crypto.subtle.importKey("jwk", file.key, { name: "AES-CTR" }, false, ["decrypt"]);
    const counter = fromBase64(file.iv);
    return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-CTR", counter, length: 64 }, key, ciphertext));
}
