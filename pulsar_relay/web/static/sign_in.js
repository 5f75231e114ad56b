import { sleep } from "./backoff.js";
import { byId, made, say } from "./elements.js";
import { ask } from "./relay.js";

const GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code";
const HINT = "The relay's page";
const STILL_WAITING = new Set(["authorization_pending", "slow_down"]);
const ENDINGS = {
  access_denied: "The sign-in was refused.",
  expired_token: "The code is no longer good. Begin again.",
};

/** The form of who is to sign in: with a password, or at a provider. */
export class SignIn {
  #session;
  #onSignedIn;
  #state = byId("sign-in-state");
  #isAsking = false;
  /** The code that is waited with; null if none is. */
  #waitingWith = null;

  /** `onSignedIn` is called once the session is somebody's. */
  constructor(session, onSignedIn) {
    this.#session = session;
    this.#onSignedIn = onSignedIn;
    byId("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("sign-in-cancel").addEventListener("click", () => this.#stopWaiting());
  }

  /** `words` say why whoever was signed in is not any more. */
  show(words) {
    byId("sign-in").hidden = false;
    this.#tell(words ? "told" : "", words ?? "");
    this.#showProviders();
  }

  async #submit() {
    const [name, password] = [byId("sign-in-name"), byId("sign-in-password")];
    if (this.#isAsking) return;
    if (!name.value || !password.value) return this.#tell("failed", "Type a name and a password.");
    this.#isAsking = true;
    this.#stopWaiting();
    this.#tell("", "Signing in …");
    try {
      await this.#session.signIn(name.value, password.value);
      this.#leave();
    } catch (error) {
      this.#tell("failed", error.words);
    } finally {
      password.value = "";
      this.#isAsking = false;
    }
  }

  async #showProviders() {
    let providers;
    try {
      providers = (await ask("auth/oidc/providers")).answer;
    } catch {
      // Passwords are good without; a relay that is away is told of above.
      return;
    }
    const buttons = providers.map((provider) => {
      const button = made("button", { type: "button", textContent: `Sign in with ${provider.display_name}` });
      button.addEventListener("click", () => this.#begin(provider));
      return button;
    });
    byId("sign-in-providers").replaceChildren(...buttons);
  }

  /**
   * At a provider, whose answer comes to another page. This one waits as a device does: whoever signs in there is shown
   * its code, and decides.
   */
  async #begin(provider) {
    if (this.#isAsking) return;
    this.#isAsking = true;
    this.#stopWaiting();
    this.#tell("", "");
    try {
      const body = new URLSearchParams({ client_hint: HINT });
      const { answer: device } = await ask("auth/device/code", { method: "POST", body });
      this.#isAsking = false;
      this.#showCode(provider, device.user_code);
      const tokens = await this.#waitFor(device);
      if (tokens === null) return;
      this.#isAsking = true;
      await this.#session.adopt(tokens);
      this.#leave();
    } catch (error) {
      this.#stopWaiting();
      this.#tell("failed", ENDINGS[error.code] ?? error.words);
    } finally {
      this.#isAsking = false;
    }
  }

  #showCode(provider, code) {
    const address = new URL(provider.login_url);
    address.searchParams.set("device_user_code", code);
    const link = byId("sign-in-link");
    link.href = address.href;
    say(link, `Sign in with ${provider.display_name}, in a new tab`);
    say(byId("sign-in-code"), code);
    byId("sign-in-waiting").hidden = false;
    link.focus();
  }

  /** Tokens, or null once something else is waited for. */
  async #waitFor({ device_code: code, interval }) {
    const body = new URLSearchParams({ grant_type: GRANT_TYPE, device_code: code });
    this.#waitingWith = code;
    for (;;) {
      await sleep(1000 * interval);
      if (this.#waitingWith !== code) return null;
      try {
        const { answer } = await ask("auth/device/token", { method: "POST", body });
        return this.#waitingWith === code ? answer : null;
      } catch (error) {
        if (this.#waitingWith !== code) return null;
        if (!STILL_WAITING.has(error.code) && !error.isRetryable) throw error;
      }
    }
  }

  #stopWaiting() {
    this.#waitingWith = null;
    byId("sign-in-waiting").hidden = true;
  }

  #leave() {
    this.#stopWaiting();
    byId("sign-in").hidden = true;
    this.#onSignedIn();
  }

  #tell(state, text) {
    this.#state.dataset.state = state;
    say(this.#state, text);
  }
}
