// Over the real service that PILOTFISH_URL and PILOTFISH_KEY name; its policy is "p".

import assert from "node:assert/strict";
import { test } from "node:test";

import { createPilotfish, PilotfishError, type Schemas } from "pilotfish";

const baseUrl = process.env.PILOTFISH_URL ?? "";
const pilotfish = createPilotfish({ baseUrl, apiKey: process.env.PILOTFISH_KEY });
const task: Schemas["Task"] = { id: "t1", statement: "fix it", image: "host" };

async function made(): Promise<Schemas["RunView"]> {
  const { data, error } = await pilotfish.POST("/v1/runs", {
    body: { task, strategy: { lookahead: { k: 2 }, selection: { n: 2 } } },
  });
  assert.ok(data, JSON.stringify(error));
  return data;
}

test("the events of a run lead to its end, and can be taken up", async () => {
  const run = await made();
  const seen: Schemas["Event"][] = [];
  for await (const event of pilotfish.events(run.id)) {
    seen.push(event);
  }
  assert.equal(seen.at(-1)?.kind, "run_ended");
  const { data } = await pilotfish.GET("/v1/runs/{run_id}", {
    params: { path: { run_id: run.id } },
  });
  assert.equal(data?.status, "succeeded");
  assert.equal(data?.trajectories?.length, 2);
  const rest: string[] = [];
  for await (const event of pilotfish.events(run.id, seen.at(-2)?.id)) {
    rest.push(event.id);
  }
  assert.deepEqual(rest, [seen.at(-1)?.id]);
});

test("runs are listed over all pages, newest first", async () => {
  const ids: string[] = [];
  for (let i = 0; i < 52; i += 1) {
    ids.unshift((await made()).id);
  }
  const listed: string[] = [];
  for await (const run of pilotfish.runs()) {
    listed.push(run.id);
  }
  assert.deepEqual(listed.slice(0, 52), ids);
});

test("a chat completion is guided, and its session is listed", async () => {
  const answer = await pilotfish.chat({
    model: "p",
    messages: [{ role: "user", content: "fix it" }],
    pilotfish: { k: 2, candidates: true, session: "typescript" },
  });
  assert.equal(answer.pilotfish?.k, 2);
  assert.equal(answer.pilotfish?.q, 0.9);
  assert.equal(answer.pilotfish?.candidates?.length, 2);
  const sessions: string[] = [];
  for await (const session of pilotfish.sessions()) {
    sessions.push(session.id);
  }
  assert.ok(sessions.includes("typescript"));
});

test("an error has its status and says what is wrong", async () => {
  const { data, error, response } = await pilotfish.GET("/v1/runs/{run_id}", {
    params: { path: { run_id: "none" } },
  });
  assert.deepEqual([data, response.status, error?.error.code], [undefined, 404, "run_not_found"]);
  await assert.rejects(
    pilotfish.events("none").next(),
    (thrown) => thrown instanceof PilotfishError && thrown.status === 404,
  );
  await assert.rejects(
    pilotfish.chat({ model: "none", messages: [{ role: "user", content: "fix it" }] }),
    (thrown) => thrown instanceof PilotfishError && thrown.status === 404,
  );
  const stranger = createPilotfish({ baseUrl, apiKey: "another" });
  await assert.rejects(
    stranger.runs().next(),
    (thrown) => thrown instanceof PilotfishError && thrown.status === 401,
  );
});
