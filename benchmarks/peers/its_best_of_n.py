"""Best of K by its_hub's library, in its own environment: a request a line, a completion a line.

python its_best_of_n.py URL K
"""

import asyncio
import json
import sys
from typing import Any

from its_hub.api import ChatMessage
from its_hub.core.algorithms.bon import BestOfN
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
from its_hub.core.reward_models.llm_judge import LLMJudge


async def answer(best: BestOfN, url: str, k: int, body: dict[str, Any]) -> dict[str, Any]:
    policy = OpenAICompatibleLanguageModel(
        *(url, "none", "policy"),
        temperature=body.get("temperature"),
        max_tokens=body.get("max_tokens"),
    )
    messages = [ChatMessage.from_dict(message) for message in body["messages"]]
    message = await best.ainfer(policy, messages, k, tools=body.get("tools"))
    return {"choices": [{"message": message}]}


async def main() -> None:
    url, k = sys.argv[1], int(sys.argv[2])
    told, sys.stdout = sys.stdout, sys.stderr  # the library prints
    best = BestOfN(LLMJudge(OpenAICompatibleLanguageModel(url, "none", "judge")))
    print("ready", file=told, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            said = await answer(best, url, k, json.loads(line))
        except Exception as error:
            said = {"error": repr(error)[:200]}
        print(json.dumps(said), file=told, flush=True)


asyncio.run(main())
