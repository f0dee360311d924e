"""What Redis does in one piece: Lua scripts, each with its keys and arguments. Knows no key's name.

Time is Redis's own, so that workers whose clocks differ agree on when a lease is over. A run is
executed by whoever holds its lease; each new holder gets the next ``epoch``, and every write on
behalf of a holder says its epoch, so that one who lost the lease without knowing writes nothing.
"""

from __future__ import annotations

_NOW = """
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1e6
end
local function ended(status)
  return status == 'succeeded' or status == 'failed' or status == 'cancelled'
end
"""

# KEYS: run, runs, due, once. ARGV: id, lifetime, request, meta, time, once's fingerprint ('': not
# asked to be made once), oldest time in runs. Returns the id, or that of the run that was made
# for the same fingerprint; false where another was.
CREATE = (
    _NOW
    + """
if ARGV[6] ~= '' then
  local made = redis.call('HMGET', KEYS[4], 'run', 'fingerprint')
  if made[1] then
    if made[2] ~= ARGV[6] then return false end
    return made[1]
  end
  redis.call('HSET', KEYS[4], 'run', ARGV[1], 'fingerprint', ARGV[6])
  redis.call('EXPIRE', KEYS[4], ARGV[2])
end
redis.call('HSET', KEYS[1], 'request', ARGV[3], 'status', 'queued', 'created_at', ARGV[5],
           'meta', ARGV[4], 'epoch', 0)
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[7])
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], now(), ARGV[1])
redis.call('EXPIRE', KEYS[3], ARGV[2])
return ARGV[1]
"""
)

# KEYS: due, leases. ARGV: prefix of runs' keys, seconds of a lease, worker, how many at most,
# lifetime. Returns a list of {id, epoch, status, how often its worker was lost at the same entry}:
# of those whose lease is over, then of those that are due.
CLAIM = (
    _NOW
    + """
local time, found, most = now(), {}, tonumber(ARGV[4])
local function take(ids, over)
  for _, id in ipairs(ids) do
    if #found >= most then return end
    local run = ARGV[1] .. id
    local status = redis.call('HGET', run, 'status')
    redis.call('ZREM', KEYS[1], id)
    if not status or ended(status) or status == 'paused' then
      redis.call('ZREM', KEYS[2], id)
    else
      local epoch = redis.call('HINCRBY', run, 'epoch', 1)
      local lost = over and redis.call('HINCRBY', run, 'lost', 1) or 0
      if status == 'queued' then
        status = 'running'
        redis.call('HSET', run, 'status', status)
      end
      redis.call('HSET', run, 'worker', ARGV[3])
      redis.call('ZADD', KEYS[2], time + tonumber(ARGV[2]), id)
      redis.call('EXPIRE', KEYS[2], ARGV[5])
      table.insert(found, {id, epoch, status, lost})
    end
  end
end
take(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time, 'LIMIT', 0, most), true)
take(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', time, 'LIMIT', 0, most), false)
return found
"""
)

# KEYS: leases. ARGV: prefix of runs' keys, seconds of a lease, lifetime, then id and epoch of each
# run. Returns the status of each, 'lost' where somebody else has it or it has ended.
RENEW = (
    _NOW
    + """
local till, answers = now() + tonumber(ARGV[2]), {}
for i = 4, #ARGV, 2 do
  local held = redis.call('HMGET', ARGV[1] .. ARGV[i], 'status', 'epoch')
  if not held[1] or held[2] ~= ARGV[i + 1] or ended(held[1]) then
    table.insert(answers, 'lost')
  else
    redis.call('ZADD', KEYS[1], till, ARGV[i])
    table.insert(answers, held[1])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return answers
"""
)

# KEYS: journal, run. ARGV: entry, lifetime, epoch. Returns the entry's id; nil where the run is
# gone (a journal that expired must not come back without a lifetime); 'fenced' where another
# worker has it.
APPEND = """
local held = redis.call('HMGET', KEYS[2], 'epoch', 'lost')
if not held[1] then return nil end
if held[1] ~= ARGV[3] then return 'fenced' end
if held[2] then redis.call('HDEL', KEYS[2], 'lost') end
local id = redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return id
"""

# KEYS: journal, run, leases, due. ARGV: entry, lifetime, epoch, id, status, time, result. Returns
# 1, or 0 where the run had ended or another worker has it: then nothing is changed.
FINISH = (
    _NOW
    + """
local held = redis.call('HMGET', KEYS[2], 'status', 'epoch')
if not held[1] or ended(held[1]) or held[2] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], 'status', ARGV[5], 'ended_at', ARGV[6], 'result', ARGV[7])
redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('ZREM', KEYS[3], ARGV[4])
redis.call('ZREM', KEYS[4], ARGV[4])
redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""
)

# KEYS: run, leases, due. ARGV: id, epoch, seconds until another worker may have it, lifetime.
# Returns 1, or 0 where it was no longer this worker's.
GIVE_BACK = (
    _NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'status', 'epoch')
if not held[1] or ended(held[1]) or held[2] ~= ARGV[2] then return 0 end
if held[1] == 'running' then redis.call('HSET', KEYS[1], 'status', 'queued') end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], now() + tonumber(ARGV[3]), ARGV[1])
redis.call('EXPIRE', KEYS[3], ARGV[4])
return 1
"""
)

# KEYS: journal, run, leases. ARGV: entry, lifetime, epoch, id. A run that is to pause is laid
# aside. Returns 1, or 0 where it is not to pause (any more), or is another worker's.
PARK = """
local held = redis.call('HMGET', KEYS[2], 'status', 'epoch')
if held[1] ~= 'pausing' or held[2] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], 'status', 'paused')
redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('ZREM', KEYS[3], ARGV[4])
redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""

# KEYS: journal, run, due. ARGV: entry, lifetime, id, then pairs of status and what it becomes.
# Statuses change as asked; the entry is appended, and the run leaves or enters the queue, where
# what it becomes needs no worker to carry out: 'paused', 'cancelled' and 'queued'. Returns
# {status before, status after}; nil where there is no such run.
ASK = (
    _NOW
    + """
local status = redis.call('HGET', KEYS[2], 'status')
if not status then return nil end
for i = 4, #ARGV, 2 do
  if ARGV[i] == status then
    local becomes = ARGV[i + 1]
    redis.call('HSET', KEYS[2], 'status', becomes)
    if becomes == 'paused' or becomes == 'cancelled' then
      redis.call('ZREM', KEYS[3], ARGV[3])
    elseif becomes == 'queued' then
      redis.call('HDEL', KEYS[2], 'ended_at', 'result', 'lost')
      redis.call('ZADD', KEYS[3], now(), ARGV[3])
      redis.call('EXPIRE', KEYS[3], ARGV[2])
    end
    if becomes == 'cancelled' then redis.call('HSET', KEYS[2], 'ended_at', now()) end
    if becomes == 'paused' or becomes == 'cancelled' or becomes == 'queued' then
      redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
      redis.call('EXPIRE', KEYS[1], ARGV[2])
    end
    redis.call('EXPIRE', KEYS[2], ARGV[2])
    return {status, becomes}
  end
end
return {status, status}
"""
)

# KEYS: places, weights. ARGV: place, weight, how many at most ('' is no bound), weight of all at
# most (''), seconds that the place is kept, lifetime. Returns 1 where the place is had, or was had
# before; 0 where there is no room.
TAKE_PLACE = (
    _NOW
    + """
local time = now()
for _, place in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', time)) do
  redis.call('ZREM', KEYS[1], place)
  redis.call('HDEL', KEYS[2], place)
end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  if ARGV[3] ~= '' and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
  if ARGV[4] ~= '' then
    local sum = tonumber(ARGV[2])
    for _, weight in ipairs(redis.call('HVALS', KEYS[2])) do sum = sum + tonumber(weight) end
    if sum > tonumber(ARGV[4]) then return 0 end
  end
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
redis.call('ZADD', KEYS[1], time + tonumber(ARGV[5]), ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[6])
return 1
"""
)

# ARGV: what keys of responses begin with, id, lifetime. Returns the records of that response and of
# those before it, newest first, and lets their lifetimes begin anew; false where one is gone.
CHAIN = """
local records = {}
local id = ARGV[2]
while id ~= '' do
  local held = redis.call('HMGET', ARGV[1] .. id, 'previous', 'record')
  if not held[2] then return false end
  redis.call('EXPIRE', ARGV[1] .. id, ARGV[3])
  records[#records + 1] = held[2]
  id = held[1]
end
return records
"""

# ARGV: prefix of sessions' keys, of histories' and of the keys of an end, a session ('': that whose
# call ended with the first of the histories that is known), digests of histories. Returns the
# session ('': none), how it is guided, and of the first history that a call of it asked or ended
# with its place, and what that call ended with.
OPEN_SESSION = """
local session = ARGV[4]
if session == '' then
  for i = 5, #ARGV do
    local found = redis.call('GET', ARGV[3] .. ARGV[i])
    if found then session = found break end
  end
end
if session == '' then return {'', false, false, false} end
local guide = redis.call('HGET', ARGV[1] .. session, 'guide')
for i = 5, #ARGV do
  local base = redis.call('HGET', ARGV[2] .. session, ARGV[i])
  if base then return {session, guide, i - 5, base} end
end
return {session, guide, false, false}
"""

# KEYS: session, its calls, its histories, the end of this call, sessions. ARGV: id, time,
# lifetime, the most calls that are kept, the call, digests of what it asked and ended with, oldest
# time in sessions, how many of the following are of what is shown; then names and values of that;
# then names of counts and what is added.
ADD_CALL = """
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'e', ARGV[5])
redis.call('HSET', KEYS[3], ARGV[6], ARGV[7], ARGV[7], ARGV[7])
redis.call('SET', KEYS[4], ARGV[1], 'EX', ARGV[3])
redis.call('HSETNX', KEYS[1], 'created_at', ARGV[2])
local counted = 10 + tonumber(ARGV[9])
redis.call('HSET', KEYS[1], 'last_at', ARGV[2], unpack(ARGV, 10, counted - 1))
for i = counted, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('ZADD', KEYS[5], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[8])
for _, key in ipairs({KEYS[1], KEYS[2], KEYS[3], KEYS[5]}) do
  redis.call('EXPIRE', key, ARGV[3])
end
"""
