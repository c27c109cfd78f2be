// A customer's whole way with the demo or a test: sign in, look, ask for a quote, top up, follow it. Prints JSON lines.
// Its one argument is JSON; the phone and the sandbox are the stand-ins that `standpipe demo` runs.
import {
  accepted,
  HomeScreenDocument,
  newKey,
  QuoteDocument,
  SignInFinishDocument,
  SignInStartDocument,
  StandpipeClient,
  TopUpStartDocument,
  type Options,
} from "../src/index.js";

declare const process: { readonly argv: readonly string[] };

interface Way extends Options {
  readonly phone: string;
  readonly phoneUrl: string;
  readonly sandboxUrl: string;
  readonly amount: string;
  readonly stopAt: string;
}

const way = JSON.parse(process.argv[2] ?? "{}") as Way;
const say = (step: string, what: unknown): void => console.log(JSON.stringify({ step, what }));

async function oneTimeCode(): Promise<string> {
  const answer = (await (await fetch(`${way.phoneUrl}/messages`)).json()) as { messages: { body: string }[] };
  return /\d{6}/.exec(answer.messages.at(-1)?.body ?? "")?.[0] ?? "";
}

async function signIn(client: StandpipeClient): Promise<string> {
  accepted((await client.run(SignInStartDocument, { phone: way.phone })).signInStart);
  const code = await oneTimeCode();
  const { token } = accepted((await client.run(SignInFinishDocument, { phone: way.phone, code })).signInFinish);
  if (token === null) throw new Error("A sign-in without a token.");
  return token;
}

const client = new StandpipeClient({ ...way, refresh: () => signIn(new StandpipeClient(way)) });
client.token = await signIn(client);

const { viewer } = await client.run(HomeScreenDocument);
const meter = viewer?.meters.edges[0]?.node;
if (!meter) throw new Error("This customer has no meter.");
say("home", { serial: meter.serial, ledger: meter.balance.ledger.display, tiers: meter.tariff.tiers.length });

const pay = { amount: way.amount, currency: meter.balance.ledger.currency };
const asked = await client.run(QuoteDocument, { meterId: meter.id, by: { money: pay }, methodId: "sandbox" });
const { quote } = accepted(asked.viewer?.meter?.quote);
say("quote", { pay: quote?.pay.display, volume: quote?.volume.display });

const input = {
  idempotencyKey: newKey(),
  meterId: meter.id,
  pay,
  methodId: "sandbox",
  ...(quote ? { quoteId: quote.id } : {}),
};
const started = accepted((await client.run(TopUpStartDocument, { input })).topUpStart);
const again = accepted((await client.run(TopUpStartDocument, { input })).topUpStart);
say("started", { status: started.topUp?.status, same: again.topUp?.id === started.topUp?.id && again.replayed });
if (!started.topUp) throw new Error("A top-up that is none.");

await fetch(`${way.sandboxUrl}/v1/references/${started.topUp.id}/approve`, { method: "POST" });
for await (const topUp of client.followTopUp(started.topUp.id)) {
  say("top-up", { status: topUp.status, credit: topUp.credit.amount, receipt: topUp.receipt?.number ?? null });
  if (topUp.status === way.stopAt) break;
}
