/**
 * Signing in by the OAuth 2.0 API: what an application does with the SDK, step by step, so that
 * somebody else can be the browser in between.
 */
import { createClient } from "matrix-js-sdk";
import { OAuth2 } from "matrix-js-sdk/lib/oauth/index.js";

export class OAuthSignIn {
    #oauth;
    #redirectUri;
    #deviceSession;
    tokens;

    /** Discovers the server and registers as a client of this page and redirect URI. */
    async registers({ baseUrl, clientUri, redirectUri, clientName }) {
        const metadata = await createClient({ baseUrl }).getAuthMetadata();
        const clientId = await OAuth2.registerClient(metadata, {
            client_name: clientName, client_uri: clientUri, redirect_uris: [redirectUri.replace(/:\d+\//, "/")],
            application_type: "native",
        });
        this.#oauth = new OAuth2(metadata, { clientId });
        this.#redirectUri = redirectUri;
        return { client_id: clientId, device_id: this.#oauth.context.deviceId };
    }

    async url({ state }) {
        return { url: await this.#oauth.generateAuthorizationCodeGrantUrl(state, this.#redirectUri, "query") };
    }

    async completes({ code }) {
        this.tokens = await this.#oauth.completeAuthorizationCodeGrant(code, this.#redirectUri);
        return this.tokens;
    }

    async beginsOnDevice() {
        this.#deviceSession = await this.#oauth.startDeviceAuthorizationGrant();
        return this.#deviceSession;
    }

    async completesOnDevice() {
        const answer = await this.#oauth.waitForDeviceAuthorizationGrant(this.#deviceSession);
        if (answer.error) throw new Error(`the device was not let in: ${answer.error}`);
        this.tokens = answer;
        return this.tokens;
    }

    async refreshes() {
        this.tokens = await this.#oauth.performRefreshTokenGrant(this.tokens.refresh_token);
        return this.tokens;
    }

    async revokes() {
        await this.#oauth.revokeToken(this.tokens.refresh_token, "refresh_token");
        return {};
    }
}
