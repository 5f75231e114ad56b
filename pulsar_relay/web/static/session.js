import { sleep } from "./backoff.js";
import { ask, RelayError } from "./relay.js";

/** A token is changed for another one so long before its end, or at half of its life, if that is shorter. */
const BEFORE_MS = 60_000;
/** What a token comes to that the relay does not take any more. */
const TOKEN_IS_OVER = new Set(["token_expired", "token_revoked", "invalid_token", "unauthenticated"]);
const USER_IS_OVER = new Set(["user_unknown", "user_inactive"]);

/**
 * Who asks without accounts. What is here is what a page needs of who asks: `ask`, which is that of relay.js in their
 * name, `token`, null where none is needed, and what becomes of a connection's token.
 */
export const ANYBODY = {
  user: null,
  ask,
  token: async () => null,
  next: () => new Promise(() => {}),
  check: async () => {},
};

/**
 * Who has signed in. Tokens are in this object, and nowhere else: not in the page's address, in no cookie and in no
 * storage. They are gone with the page. Everything but `signIn`, `adopt` and `leave` is for who is signed in.
 */
export class Session {
  user = null;
  #access = null;
  #refresh = null;
  #renewAt = 0;
  #endsAt = 0;
  #renewing = null;
  #onEnd;

  /** `onEnd` is told why, once, when the relay takes neither token any more. */
  constructor(onEnd) {
    this.#onEnd = onEnd;
  }

  async signIn(username, password) {
    const body = new URLSearchParams({ grant_type: "password", username, password });
    const { answer } = await ask("auth/login", { method: "POST", body, seconds: 30 });
    await this.adopt(answer);
  }

  /** Go on with what the relay has answered to a sign-in. */
  async adopt(tokens) {
    this.#keep(tokens);
    try {
      this.user = (await ask("auth/me", signed(this.#access))).answer;
    } catch (error) {
      await this.leave();
      throw error;
    }
  }

  async ask(path, options = {}) {
    const token = await this.token();
    try {
      return await ask(path, signed(token, options));
    } catch (error) {
      if (!(await this.#isOvercome(error, token))) throw error;
      return ask(path, signed(this.#access, options));
    }
  }

  /** An access token that is good for a while. */
  async token() {
    if (performance.now() >= this.#renewAt) {
      try {
        await this.#renew();
      } catch (error) {
        if (!error.isRetryable || performance.now() >= this.#endsAt) throw error;
      }
    }
    return this.#access;
  }

  /** The token after this one, as soon as it is time to have one. */
  async next(token) {
    const wait = this.#renewAt - performance.now();
    // In a page that nobody looks at a browser's timers take their time, even those that wait for nothing.
    if (this.#access === token && wait > 0) await sleep(wait);
    if (this.#access === token) await this.#renew();
    return this.#access;
  }

  /**
   * Whether this token still lets in, asked after a connection was refused or closed, by `closing` if it said why.
   * Throws the RelayError that it does not; returns if there is by now another token that does.
   */
  async check(token, closing) {
    if (closing && (await this.#isOvercome(closing, token))) return;
    const { answer } = await this.ask("auth/me");
    if (!answer.permissions.includes("read")) {
      throw new RelayError("permission_required", "This account may not read.");
    }
  }

  /** Have the relay forget both tokens, also when the page is closing. Throws nothing. */
  async leave() {
    const [access, token] = [this.#access, this.#refresh];
    this.#access = this.#refresh = this.user = null;
    if (access === null) return;
    const body = JSON.stringify({ refresh_token: token, revoke_chain: true });
    const headers = { "Content-Type": "application/json" };
    const post = { method: "POST", keepalive: true, seconds: 5 };
    await Promise.allSettled([
      ask("auth/logout", signed(access, post)),
      token && ask("auth/token/revoke", { ...post, headers, body }),
    ]);
  }

  /** Whether an error was but a token's end, and there is another one now. */
  async #isOvercome(error, token) {
    if (USER_IS_OVER.has(error.code)) this.#end(error);
    if (!TOKEN_IS_OVER.has(error.code)) return false;
    if (this.#access === token) await this.#renew(error);
    return true;
  }

  /** All who want another token at once get the same. `reason` is why this one is over, if it is. */
  #renew(reason) {
    this.#renewing ??= this.#exchange(reason).finally(() => (this.#renewing = null));
    return this.#renewing;
  }

  async #exchange(reason) {
    const body = JSON.stringify({ refresh_token: this.#refresh });
    const headers = { "Content-Type": "application/json" };
    try {
      if (this.#refresh === null) throw new RelayError("unauthenticated", "Nobody is signed in.");
      // Asked again after an answer that was lost, the relay answers as it did.
      this.#keep((await ask("auth/token/refresh", { method: "POST", headers, body })).answer);
    } catch (error) {
      if (!error.isRetryable) this.#end(reason ?? error);
      throw error;
    }
  }

  #keep({ access_token: access, refresh_token: token, expires_in: seconds }) {
    const [now, lifeMs] = [performance.now(), 1000 * seconds];
    this.#access = access;
    this.#refresh = token;
    this.#endsAt = now + lifeMs;
    this.#renewAt = this.#endsAt - Math.min(BEFORE_MS, lifeMs / 2);
  }

  #end(reason) {
    if (this.user === null) return;
    this.#access = this.#refresh = this.user = null;
    this.#onEnd(reason);
  }
}

function signed(token, options = {}) {
  return { ...options, headers: { ...options.headers, Authorization: `Bearer ${token}` } };
}
