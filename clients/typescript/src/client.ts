// Standpipe's customer API over fetch. Nothing is needed at run time but fetch, AbortSignal and crypto.randomUUID.
import {
  HttpError,
  NetworkError,
  RequestError,
  SignedOutError,
  UserErrors,
  type GraphQLErrorShape,
} from "./errors.js";
import {
  TopUpFollowDocument,
  type ErrorPartsFragment,
  type TopUpFollowQuery,
  type TypedDocumentString,
} from "./generated/graphql.js";

const UNAUTHENTICATED = "UNAUTHENTICATED";
const ACCEPT = "application/graphql-response+json, application/json;q=0.9";

export interface Options {
  /** Such as https://water.example/graphql. */
  readonly url: string;
  readonly token?: string;
  /** Asked once when a token is refused, however many requests wait for it; null: the sign-in has ended. */
  readonly refresh?: () => Promise<string | null>;
  /** BCP 47; amounts and messages come in it. */
  readonly language?: string;
  /** Send the ids of documents that the server trusts, instead of their text. */
  readonly documentIds?: boolean;
  readonly timeoutMs?: number;
  readonly fetch?: typeof fetch;
}

export type FollowedTopUp = Extract<TopUpFollowQuery["node"], { __typename: "TopUp" }>;

interface Answer {
  readonly data?: unknown;
  readonly errors?: readonly GraphQLErrorShape[];
}

/** A fresh idempotency key: make it when the screen opens, and send it again with every retry of that intention. */
export const newKey = (): string => crypto.randomUUID();

/** A mutation's payload without its errors. Throws UserErrors. */
export function accepted<T extends { readonly userErrors: readonly ErrorPartsFragment[] }>(
  payload: T | null | undefined,
): T {
  if (payload == null || payload.userErrors.length > 0) throw new UserErrors(payload?.userErrors ?? []);
  return payload;
}

export class StandpipeClient {
  token: string | null;
  private refreshing: Promise<string | null> | null = null;

  constructor(private readonly options: Options) {
    this.token = options.token ?? null;
  }

  /** What an operation answers. Throws NetworkError, HttpError, SignedOutError, RequestError. */
  async run<R, V extends Record<string, unknown>>(
    document: TypedDocumentString<R, V>,
    ...rest: Record<string, never> extends V
      ? [variables?: V, signal?: AbortSignal]
      : [variables: V, signal?: AbortSignal]
  ): Promise<R> {
    const [variables, signal] = rest;
    const used = this.token;
    let answer = await this.post(document, variables, used, signal);
    if (answer === UNAUTHENTICATED && used !== null && (await this.freshToken(used)) !== null) {
      answer = await this.post(document, variables, this.token, signal);
    }
    if (answer === UNAUTHENTICATED) throw new SignedOutError();
    if (answer.errors?.length || answer.data == null) throw new RequestError(answer.errors ?? [], answer.data);
    return answer.data as R;
  }

  /** A top-up now and after each change, as often as the server asks for, until nothing more is expected of it. */
  async *followTopUp(topUpId: string, signal?: AbortSignal): AsyncGenerator<FollowedTopUp, void, void> {
    let seen = "";
    for (;;) {
      const { node } = await this.run(TopUpFollowDocument, { topUpId }, signal);
      if (node?.__typename !== "TopUp") return;
      const topUp = node as FollowedTopUp;
      const now = JSON.stringify(topUp);
      if (now !== seen) yield topUp;
      seen = now;
      if (topUp.terminal || topUp.pollAfterMs == null) return;
      await pause(topUp.pollAfterMs, signal);
    }
  }

  private async post(
    document: TypedDocumentString<unknown, never>,
    variables: unknown,
    token: string | null,
    signal: AbortSignal | undefined,
  ): Promise<Answer | typeof UNAUTHENTICATED> {
    const { url, language, documentIds, timeoutMs = 20_000, fetch = globalThis.fetch } = this.options;
    const what = documentIds ? { documentId: document.__meta__?.["documentId"] } : { query: document.toString() };
    const headers: Record<string, string> = { "content-type": "application/json", accept: ACCEPT };
    if (language) headers["accept-language"] = language;
    if (token) headers["authorization"] = `Bearer ${token}`;
    const timeout = AbortSignal.timeout(timeoutMs);
    const body = JSON.stringify({ ...what, variables });
    let response: Response, text: string;
    try {
      const until = signal ? AbortSignal.any([signal, timeout]) : timeout;
      response = await fetch(url, { method: "POST", headers, body, signal: until });
      text = await response.text();
    } catch (error) {
      signal?.throwIfAborted();
      throw new NetworkError(error);
    }
    const answer = parsed(text);
    if (response.status === 401 || answer?.errors?.[0]?.extensions?.code === UNAUTHENTICATED) return UNAUTHENTICATED;
    if (answer === null) throw new HttpError(response.status, text, Number(response.headers.get("retry-after")) || null);
    return answer;
  }

  /** One refresh at a time; whoever comes late takes the token that another request has got meanwhile. */
  private async freshToken(refused: string): Promise<string | null> {
    if (this.token !== refused) return this.token;
    this.refreshing ??= Promise.resolve(this.options.refresh?.() ?? null).finally(() => (this.refreshing = null));
    this.token = await this.refreshing;
    return this.token;
  }
}

function parsed(text: string): Answer | null {
  try {
    const value = JSON.parse(text) as Answer | null;
    return typeof value === "object" && value !== null && ("data" in value || "errors" in value) ? value : null;
  } catch {
    return null;
  }
}

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = () => (signal?.removeEventListener("abort", stop), resolve());
    const stop = () => (clearTimeout(timer), reject(signal?.reason as Error));
    const timer = setTimeout(done, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
