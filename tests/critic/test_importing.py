"""Import of other people's trajectories, in their own schemas."""

import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from critic.errors import CriticInputError
from critic.importing.importer import import_trajectories
from critic.importing.rewards import read_rewards
from critic.trajectory import read_trajectories
from tests.tiny import trajectory

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "bash", "arguments": '{"command": "ls"}'},
}
SWE_AGENT_ROW = {
    "instance_id": "org__repo-1",
    "model_name": "swe-agent-llama-70b",
    "target": True,
    "trajectory": [
        {"role": "system", "text": None, "system_prompt": "You fix.", "mask": False,
         "cutoff_date": None},
        {"role": "user", "text": "the issue", "system_prompt": None, "mask": False,
         "cutoff_date": "2023"},
        {"role": "ai", "text": "look\n```\nls\n```", "system_prompt": None, "mask": False,
         "cutoff_date": "2023"},
        {"role": "user", "text": "a.py", "system_prompt": None, "mask": False,
         "cutoff_date": "2023"},
        {"role": "ai", "text": "done\n```\nsubmit\n```", "system_prompt": None, "mask": False,
         "cutoff_date": "2023"},
    ],
    "exit_status": "submitted",
    "generated_patch": "diff",
    "eval_logs": "",
}  # fmt: skip
OPENHANDS_ROW = {
    "trajectory_id": "row-7",
    "instance_id": "org__repo-2",
    "repo": "org/repo",
    "trajectory": [
        {"role": "system", "content": "You fix.", "tool_calls": None, "name": None,
         "tool_call_id": None},
        {"role": "user", "content": "the issue", "tool_calls": None, "name": None,
         "tool_call_id": None},
        {"role": "assistant", "content": "", "tool_calls": [CALL], "name": None,
         "tool_call_id": None},
        {"role": "tool", "content": "a.py", "tool_calls": None, "name": "bash",
         "tool_call_id": "c1"},
        {"role": "assistant", "content": "all done", "tool_calls": None, "name": None,
         "tool_call_id": None},
    ],
    "tools": "[]",
    "model_patch": "diff",
    "exit_status": "submit",
    "resolved": 0,
    "gen_tests_correct": None,
    "pred_passes_gen_tests": None,
}  # fmt: skip
MINI = {
    "trajectory_format": "mini-swe-agent-1.1",
    "instance_id": "org__repo-3",
    "info": {
        "exit_status": "Submitted",
        "submission": "diff",
        "config": {"model": {"model_name": "gpt"}},
        "model_stats": {"instance_cost": 0.1, "api_calls": 2},
    },
    "messages": [
        {"role": "system", "content": "You fix."},
        {"role": "user", "content": "the issue"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "extra": {"cost": 0.1}},
        {"role": "tool", "tool_call_id": "c1", "content": "a.py", "extra": {"returncode": 0}},
        {"role": "assistant", "content": "done", "extra": {}},
        {"role": "exit", "content": "diff", "extra": {"exit_status": "Submitted"}},
    ],
}
SWE_AGENT = {
    "environment": "swe",
    "trajectory": [],
    "history": [
        {"role": "system", "content": "You fix.", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": "a demonstration", "agent": "main", "is_demo": True},
        {"role": "user", "content": "the issue", "agent": "main", "message_type": "observation"},
        {"role": "assistant", "content": "look", "thought": "look", "action": "ls",
         "agent": "main", "tool_calls": [CALL], "message_type": "action"},
        {"role": "tool", "content": [{"type": "text", "text": "a.py"}], "tool_call_ids": ["c1"],
         "agent": "main", "message_type": "observation"},
        {"role": "assistant", "content": "submit", "agent": "main", "message_type": "action"},
    ],
    "info": {"exit_status": "submitted (exit_context)", "submission": "diff"},
    "replay_config": json.dumps({"agent": {"model": {"name": "claude"}}}),
}  # fmt: skip
ATIF = {
    "schema_version": "ATIF-v1.7",
    "session_id": "s-1",
    "agent": {"name": "terminus", "version": "1", "model_name": "qwen"},
    "steps": [
        {"step_id": 1, "source": "system", "message": "You fix."},
        {"step_id": 2, "source": "user", "message": [{"type": "text", "text": "the issue"}]},
        {"step_id": 3, "source": "agent", "message": "", "reasoning_content": "look first",
         "tool_calls": [
             {"tool_call_id": "c1", "function_name": "bash", "arguments": {"command": "ls"}}],
         "observation": {"results": [{"source_call_id": "c1", "content": "a.py"}]}},
        {"step_id": 4, "source": "agent", "message": "done"},
    ],
    "extra": {"task_id": "org__repo-4", "reward": 1.0},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    def run(*sources, **options):
        out, rejects = tmp_path / "out" / "all.jsonl", tmp_path / "rejects.jsonl"
        counts = import_trajectories(sources, out, rejects=rejects, **options)
        refused = [json.loads(line) for line in rejects.read_text().splitlines()]
        return counts, list(read_trajectories(out)), refused

    return run


def parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def document(path, fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))
    return path


def shapes(trajectory):
    """Role, text and calls of every message."""
    return [
        (m.role, m.text, [c["function"]["name"] for c in m.tool_calls or []])
        for m in trajectory.messages
    ]


WITH_CALLS = [
    ("system", "You fix.", []),
    ("user", "the issue", []),
    ("assistant", "", ["bash"]),
    ("tool", "a.py", []),
]


def test_rows_of_swe_agent(run, tmp_path):
    limit = SWE_AGENT_ROW | {"target": False, "exit_status": "submitted (exit_cost)"}
    counts, [first, second], _ = run(
        parquet(tmp_path / "rows.parquet", [SWE_AGENT_ROW, limit | {"instance_id": "other"}])
    )
    assert (counts.rows, counts.kept, counts.rejected) == (2, 2, 0)
    assert shapes(first) == [
        ("system", "You fix.", []),
        ("user", "the issue", []),
        ("assistant", "look\n```\nls\n```", []),
        ("user", "a.py", []),
        ("assistant", "done\n```\nsubmit\n```", []),
    ]
    assert (first.task_id, first.policy, first.reward) == ("org__repo-1", "swe-agent-llama-70b", 1)
    assert first.exit_status == "Submitted"
    assert (second.reward, second.exit_status) == (0, "TokenLimitExceeded")
    assert second.exit_message == "submitted (exit_cost)"


def test_rows_of_openhands(run, tmp_path):
    _, [found], _ = run(parquet(tmp_path / "rows.parquet", [OPENHANDS_ROW]))
    assert shapes(found) == [*WITH_CALLS, ("assistant", "all done", [])]
    assert found.steps[0].decision.message.tool_calls == [CALL]
    assert found.steps[0].replies[0].tool_call_id == "c1"
    assert (found.id, found.task_id, found.reward) == ("row-7", "org__repo-2", 0)
    assert found.exit_status == "Submitted"


def test_mini_swe_agent(run, tmp_path):
    file = document(tmp_path / "org__repo-3.traj.json", MINI)
    _, [found], _ = run(file, rewards={"org__repo-3": 1.0})
    assert shapes(found) == [*WITH_CALLS, ("assistant", "done", [])]
    assert "extra" not in found.messages[2].wire()
    assert (found.task_id, found.policy, found.reward) == ("org__repo-3", "gpt", 1)


def test_mini_swe_agent_over_the_responses_api(run, tmp_path):
    turn = {
        "object": "response",
        "output": [
            {"type": "message", "content": [{"type": "output_text", "text": "look"}]},
            {"type": "function_call", "call_id": "c1", "name": "bash", "arguments": "{}"},
        ],
    }
    reply = {"type": "function_call_output", "call_id": "c1", "output": "a.py"}
    messages = [*MINI["messages"][:2], turn, reply]
    file = document(tmp_path / "task-9.traj.json", MINI | {"messages": messages, "instance_id": ""})
    _, [found], _ = run(file, rewards={"task-9": 0})
    assert shapes(found)[2:] == [("assistant", "look", ["bash"]), ("tool", "a.py", [])]
    assert found.task_id == "task-9"


def test_swe_agent(run, tmp_path):
    file = document(tmp_path / "org__repo-5" / "org__repo-5.traj", SWE_AGENT)
    _, [found], _ = run(file, keep_unrewarded=True)
    assert [(role, text) for role, text, _ in shapes(found)] == [
        ("system", "You fix."),
        ("user", "a demonstration"),
        ("user", "the issue"),
        ("assistant", "look"),
        ("tool", "a.py"),
        ("assistant", "submit"),
    ]
    assert found.steps[0].replies[0].tool_call_id == "c1"
    assert (found.task_id, found.policy, found.reward) == ("org__repo-5", "claude", None)
    assert found.exit_status == "ContextLimitExceeded"


def test_demonstrations_of_whole_turns_are_not_the_agents(run, tmp_path):
    demo = [
        {"role": "assistant", "content": "shown", "is_demo": True},
        {"role": "user", "content": "seen", "is_demo": True},
    ]
    history = [SWE_AGENT["history"][0], *demo, *SWE_AGENT["history"][2:]]
    file = document(tmp_path / "t.traj", SWE_AGENT | {"history": history})
    _, [found], _ = run(file, keep_unrewarded=True)
    assert [m.text for m in found.messages][:3] == ["You fix.", "the issue", "look"]


def test_atif(run, tmp_path):
    _, [found], _ = run(document(tmp_path / "trajectory.json", ATIF))
    assert shapes(found) == [*WITH_CALLS, ("assistant", "done", [])]
    turn = found.steps[0].decision.message
    assert json.loads(turn.tool_calls[0]["function"]["arguments"]) == {"command": "ls"}
    assert turn.wire()["reasoning_content"] == "look first"
    assert (found.task_id, found.policy, found.reward) == ("org__repo-4", "qwen", 1)


def test_our_own(run, tmp_path):
    ours = [trajectory("t", ["ls", "submit"], reward=1.0), trajectory("t", ["ls"], reward=0.0)]
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(t.model_dump_json() + "\n" for t in ours))
    _, found, _ = run(file)
    assert found == ours


def test_a_folder_is_read_whole_whatever_its_formats(run, tmp_path):
    folder = tmp_path / "in"
    document(folder / "a" / "x.traj.json", MINI)
    document(folder / "b" / "y.traj", SWE_AGENT)
    (folder / "notes.txt").write_text("nothing")
    counts, found, _ = run(folder, keep_unrewarded=True)
    assert (counts.rows, counts.kept) == (2, 2)
    assert {t.policy for t in found} == {"gpt", "claude"}


def test_every_row_is_accounted_for(run, tmp_path):
    rows = [
        json.dumps(SWE_AGENT_ROW),
        json.dumps(SWE_AGENT_ROW),
        "{broken",
        "[1]",
        json.dumps({"some": "thing"}),
        json.dumps(SWE_AGENT_ROW | {"trajectory": SWE_AGENT_ROW["trajectory"][:2]}),
        json.dumps(SWE_AGENT_ROW | {"trajectory": [{"role": "robot", "text": "x"}]}),
        json.dumps(SWE_AGENT_ROW | {"trajectory": "nothing"}),
        json.dumps(SWE_AGENT_ROW | {"trajectory": 3}),
        json.dumps(SWE_AGENT_ROW | {"target": None, "instance_id": "other"}),
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(rows))
    counts, _, refused = run(file)
    assert counts.rows == 10
    assert (counts.kept, counts.duplicates, counts.unrewarded, counts.rejected) == (1, 1, 1, 7)
    assert [r["where"].rsplit(":", 1)[1] for r in refused] == ["3", "4", "5", "6", "7", "8", "9"]
    assert "no agent turn" in refused[3]["error"]
    assert "robot" in refused[4]["error"]
    assert sum(counts.errors.values()) == 7


def test_a_row_that_cannot_be_kept_is_a_reject_and_costs_no_other(run, tmp_path):
    half = {"role": "user", "text": "\ud800", "system_prompt": None}
    atif = {"schema_version": "ATIF-v1.7", "session_id": "s", "agent": {"name": "a"},
            "steps": [{"source": "agent", "message": "x"}]}  # fmt: skip
    rows = [
        SWE_AGENT_ROW | {"trajectory": [half, *SWE_AGENT_ROW["trajectory"][1:]]},
        SWE_AGENT_ROW,
        SWE_AGENT_ROW | {"target": float("nan"), "instance_id": "b"},
        SWE_AGENT_ROW | {"target": "False", "instance_id": "c"},
        *(atif | {"extra": {"reward": reward}} for reward in (float("inf"), 2.5, -3.5)),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts, kept, refused = run(tmp_path / "rows.jsonl")
    assert [(t.task_id, t.reward) for t in kept] == [("org__repo-1", 1.0), ("c", 0.0)]
    told = [r["error"] for r in refused]
    assert "cannot be written" in told[0]
    assert "outcome of nan" in told[1]
    assert len(told) == counts.rejected == 5


def test_a_parquet_file_that_was_cut_short_is_a_reject(run, tmp_path):
    whole = parquet(tmp_path / "whole.parquet", [SWE_AGENT_ROW])
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-20])
    counts, _, [refused] = run(cut, whole)
    assert (counts.kept, counts.rejected) == (1, 1)
    assert "not Parquet" in refused["error"]


def test_a_parquet_file_with_a_broken_page_is_a_reject(run, tmp_path):
    rows = [SWE_AGENT_ROW | {"instance_id": f"t{i}"} for i in range(300)]
    broken = tmp_path / "broken.parquet"
    pq.write_table(pa.Table.from_pylist(rows), broken, row_group_size=100, compression="zstd")
    content = bytearray(broken.read_bytes())
    place = pq.ParquetFile(broken).metadata.row_group(2).column(0).data_page_offset
    content[place : place + 20] = bytes(20)
    broken.write_bytes(content)
    counts, _, [refused] = run(broken)
    assert 0 < counts.kept < 300
    assert "not Parquet from here on" in refused["error"]


def test_the_policys_name_can_be_given(run, tmp_path):
    _, [found], _ = run(parquet(tmp_path / "r.parquet", [SWE_AGENT_ROW]), policy="mine")
    assert found.policy == "mine"


def test_what_was_there_stays_where_an_import_breaks_off(run, tmp_path):
    out = tmp_path / "out" / "all.jsonl"
    out.parent.mkdir()
    out.write_text("what was there\n")

    def stop(path, counts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parquet(tmp_path / "r.parquet", [SWE_AGENT_ROW]), progress=stop)
    assert out.read_text() == "what was there\n"
    assert [p.name for p in out.parent.iterdir()] == ["all.jsonl"]


@pytest.mark.parametrize("source", ["nowhere.parquet", "notes.txt", "empty"])
def test_a_source_that_is_none_is_named(run, tmp_path, source):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CriticInputError, match=source):
        run(tmp_path / source)


def test_an_unknown_format_is_named_beside_the_known(run, tmp_path):
    with pytest.raises(CriticInputError, match="nebius-openhands"):
        run(parquet(tmp_path / "r.parquet", [SWE_AGENT_ROW]), format="other")


def test_a_format_that_is_given_is_the_one_that_is_tried(run, tmp_path):
    with pytest.raises(CriticInputError, match="nothing was imported: of 1 rows, 1 were rejected"):
        run(parquet(tmp_path / "r.parquet", [SWE_AGENT_ROW]), format="atif")
    assert json.loads((tmp_path / "rejects.jsonl").read_text())["error"]


@pytest.mark.parametrize(
    "told",
    [
        {"a": True, "b": 0},
        {"resolved_ids": ["a"], "unresolved_ids": ["b"], "total_instances": 2},
        {"resolved_ids": ["a"], "empty_patch_ids": ["b"], "error_ids": ["c"]},
        {"a": {"resolved": True}, "b": {"resolved": False}},
    ],
)
def test_rewards_come_from_a_report(tmp_path, told):
    assert read_rewards(document(tmp_path / "report.json", told)) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("told", [[1], {"a": "yes"}, {"a": 2}])
def test_rewards_that_are_none_are_named(tmp_path, told):
    with pytest.raises(CriticInputError, match=r"report.json"):
        read_rewards(document(tmp_path / "report.json", told))


def test_a_folder_is_no_place_for_a_file(run, tmp_path):
    (tmp_path / "out" / "all.jsonl").mkdir(parents=True)
    (tmp_path / "in.jsonl").write_text("")
    with pytest.raises(CriticInputError, match="is a folder"):
        run(tmp_path / "in.jsonl")
    assert {path.name for path in tmp_path.rglob("*")} == {"out", "all.jsonl", "in.jsonl"}


def test_what_is_read_is_not_written(run, tmp_path):
    (tmp_path / "out").mkdir()
    for place in (tmp_path / "out" / "all.jsonl", tmp_path / "rejects.jsonl"):
        place.write_text("{}\n")
        with pytest.raises(CriticInputError, match="is to be read"):
            run(place)
        assert place.read_text() == "{}\n"
    both = tmp_path / "both.jsonl"
    with pytest.raises(CriticInputError, match="are both"):
        import_trajectories([], both, rejects=both)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_memory_does_not_grow_with_the_file(run, tmp_path, kind):
    def peak(count):
        rows = [
            SWE_AGENT_ROW | {"instance_id": f"t{i}", "generated_patch": f"{i}" * 5000}
            for i in range(count)
        ]
        place = tmp_path / f"{count}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), place, row_group_size=50)
        else:
            place.write_text("".join(json.dumps(row) + "\n" for row in rows))
        del rows
        usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
        pa.set_memory_pool(pool)
        tracemalloc.start()
        counts = import_trajectories(
            [place], tmp_path / "out.jsonl", rejects=tmp_path / "rejects.jsonl"
        )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        pa.set_memory_pool(usual)
        assert counts.kept == count
        return most + pool.max_memory()

    assert peak(800) - peak(100) < 700 * 1000  # bytes: of rows of 15 kB
