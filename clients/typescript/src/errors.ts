// What can go wrong, by what an app can do about it.
import type { ErrorPartsFragment } from "./generated/graphql.js";

/** The root of them all. `retryable`: the same request may succeed a moment later. */
export class StandpipeError extends Error {
  constructor(
    message: string,
    readonly retryable: boolean,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** No answer came. A mutation may have happened: send it again with the same idempotency key. */
export class NetworkError extends StandpipeError {
  constructor(cause: unknown) {
    super("Standpipe did not answer.", true, { cause });
  }
}

/** An answer that is not GraphQL's, such as 413, 429 or a proxy's 502. */
export class HttpError extends StandpipeError {
  constructor(
    readonly status: number,
    readonly body: string,
    readonly retryAfterS: number | null,
  ) {
    super(`HTTP ${status}`, status === 429 || status >= 500);
  }
}

/** The sign-in has ended, and no fresh token could be had: show the sign-in screen. */
export class SignedOutError extends StandpipeError {
  constructor() {
    super("Sign in again.", false);
  }
}

export interface GraphQLErrorShape {
  readonly message: string;
  readonly path?: readonly (string | number)[];
  readonly extensions?: { readonly code?: string; readonly errorId?: string; readonly [name: string]: unknown };
}

/** The server refused the request, or failed at it: `errorId` then is what its operators look for. */
export class RequestError extends StandpipeError {
  readonly code: string | null;
  readonly errorId: string | null;

  constructor(
    readonly errors: readonly GraphQLErrorShape[],
    readonly data: unknown,
  ) {
    super(errors[0]?.message ?? "The request failed.", errors[0]?.extensions?.code === "INTERNAL");
    this.code = errors[0]?.extensions?.code ?? null;
    this.errorId = errors[0]?.extensions?.errorId ?? null;
  }
}

/** An expected refusal, in words that can be shown to the customer. */
export class UserErrors extends StandpipeError {
  constructor(readonly errors: readonly ErrorPartsFragment[]) {
    super(
      errors.map((error) => error.message).join(" "),
      errors.every((error) => error.retryable),
    );
  }
}
