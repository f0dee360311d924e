"""The pattern of SWE-agent's action samplers, written anew: K candidates asked for one after
another, then K-1 comparisons, each of the best so far with the next. (What is called ``sweagent``
on PyPI is a placeholder.)"""

from __future__ import annotations

import httpx

from benchmarks.peers.asking import Body, Peer, at


def one_by_one(models: str, k: int, client: httpx.AsyncClient) -> Peer:
    propose, judge = (at(models, client, {"model": name}) for name in ("policy", "judge"))

    async def ask(body: Body) -> Body:
        candidates = [await propose(body) for _ in range(k)]
        best = candidates[0]
        for other in candidates[1:]:
            shown = [one["choices"][0]["message"] for one in (best, other)]
            question = {"role": "user", "content": f"Which is better? {shown}"}
            said = await judge({"messages": [*body["messages"], question]})
            best = best if said["choices"] else other
        return best

    return Peer("SWE-agent's pattern (written by us)", ask)
