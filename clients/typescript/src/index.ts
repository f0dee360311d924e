// Pilotfish for TypeScript: every route of the OpenAPI document, typed, by openapi-fetch; and what a
// document cannot say, lists as they go on and the events of a run.

import { EventSourceParserStream } from "eventsource-parser/stream";
import createClient, { type Client, type ClientOptions } from "openapi-fetch";

import type { components, paths } from "./schema.js";

export type { paths } from "./schema.js";
export type Schemas = components["schemas"];

/** What the service answered instead of what was asked for. `status` is HTTP's. */
export class PilotfishError extends Error {
  constructor(
    readonly status: number,
    readonly body: Schemas["ErrorAnswer"] | undefined,
  ) {
    super(body?.error?.message ?? `the service answers ${status}`);
    this.name = "PilotfishError";
  }
}

export interface PilotfishOptions extends Omit<ClientOptions, "baseUrl"> {
  /** Where the service is, without `/v1`. */
  baseUrl: string;
  /** One of its keys; none where it has none. */
  apiKey?: string;
}

export interface Pilotfish extends Client<paths> {
  /** A chat completion, guided, whole. Throws `PilotfishError`. */
  chat(body: Schemas["ChatRequest"] & { stream?: false }): Promise<Schemas["ChatCompletion"]>;
  /** All runs, newest first; pages are fetched as they are needed. Throws `PilotfishError`. */
  runs(): AsyncGenerator<Schemas["RunView"]>;
  /** All sessions, the latest called first, likewise. */
  sessions(): AsyncGenerator<Schemas["SessionView"]>;
  /** The events of a run, behind the one with the id `after`, until it has ended or the connection
   * breaks. Throws `PilotfishError`. */
  events(runId: string, after?: string): AsyncGenerator<Schemas["Event"]>;
}

/** A client of the service at `baseUrl`. The routes answer `{data, error, response}` and do not
 * throw for what the service refuses. */
export function createPilotfish({ apiKey, ...options }: PilotfishOptions): Pilotfish {
  const client = createClient<paths>(options);
  if (apiKey !== undefined) {
    client.use({
      onRequest({ request }) {
        request.headers.set("Authorization", `Bearer ${apiKey}`);
      },
    });
  }
  return {
    ...client,
    async chat(body) {
      const { data, error, response } = await client.POST("/v1/chat/completions", { body });
      if (data === undefined || !("choices" in data)) {
        throw new PilotfishError(response.status, error);
      }
      return data;
    },
    runs: () => walk((after) => client.GET("/v1/runs", { params: { query: { after } } })),
    sessions: () => walk((after) => client.GET("/v1/sessions", { params: { query: { after } } })),
    async *events(runId, after) {
      const headers = after === undefined ? {} : { "last-event-id": after };
      const { response } = await client.GET("/v1/runs/{run_id}/events", {
        params: { path: { run_id: runId }, header: headers },
        parseAs: "stream",
      });
      if (!response.ok || response.body === null) {
        throw await failure(response);
      }
      const messages = response.body
        .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>)
        .pipeThrough(new EventSourceParserStream());
      for await (const message of messages) {
        yield JSON.parse(message.data) as Schemas["Event"];
      }
    },
  };
}

interface Page<Item> {
  data: Item[];
  next?: string | null;
}

interface Answer<Item> {
  data?: Page<Item>;
  error?: Schemas["ErrorAnswer"];
  response: Response;
}

async function* walk<Item>(
  ask: (after: string | undefined) => Promise<Answer<Item>>,
): AsyncGenerator<Item> {
  let after: string | undefined;
  do {
    const { data, error, response } = await ask(after);
    if (data === undefined) {
      throw new PilotfishError(response.status, error);
    }
    yield* data.data;
    after = data.next ?? undefined;
  } while (after !== undefined);
}

async function failure(response: Response): Promise<PilotfishError> {
  const text = await response.text().catch(() => "");
  try {
    return new PilotfishError(response.status, JSON.parse(text));
  } catch {
    return new PilotfishError(response.status, undefined);
  }
}
