#!lua name=LIBRARY_NAME
--[[
The limiter in Redis (7.0 or newer) and Valkey: one library, one function a verb. What belongs here: the rules of
proxy/core/limits.py, kept as proxy/core/account_state.py keeps them, answer for answer. What does not: the ledger.
A change of what is stored, or of what a function takes or answers, is a new library name: v1 and v2 live side by side.

KEYS, the same four for every function but attach and renew, in one slot by their {account} tag:
  1  state    hash: all that is known of the account. Lost whole or not at all: absence means unknown, never zero.
                clock                 see CLOCK below
                w:<name>:<window ms>  a window's header, see WINDOW
                c:<that>:<number>     a chunk of RECORDS_A_CHUNK closed buckets of that window, see RECORD
                b:<name>:<period>     a budget, see BUDGET
                h:<call id>           a call in flight: DOUBLE expiry, BYTE n, n times DOUBLES held and known,
                                      BYTES_2 length and the n fields joined by "|", the answer that was given
  2  expiries sorted set: call id by expiry, of the calls in flight
  3, 4 gone   hashes, two generations: call id -> DOUBLE when it went, and for an expired call BYTE n, n DOUBLES
              charged, BYTES_2 length and the fields. Final when there is no more than the time.

ARGV, common:
  1  now_ms: '' for the server's own clock, else Unix milliseconds
  2  call id
  3  plan: the limits, joined by "|", each: 'w' name window_ms bucket_ms 'a' (stamped at admission) or 's' capacity
     or 'b' name period ends_ms '-' capacity, joined by spaces
A sum is exact to 2^53 - 1 and stops there. Costs of every function are independent of window length and history, but
for what is aged out or expires at that moment, each once, and for a correction downwards, which is rare.
]]

local AMOUNT_MAX = 9007199254740991 -- also "never"
local DAY_MS = 86400000
local BUDGET_KEPT_MS = 40 * DAY_MS -- after its end
local TOUCH_MS = 3600000 -- how often the life of the state is renewed
local GONE_CALLS_MAX = 4096
local PLANS_MAX = 4096
local CLOCK = '<dddddddd' -- latest time seen, no hold expires before, holds, epoch, gone generation, its start,
-- when the state's life was renewed, and for how long
local WINDOW = '<dddddddddd' -- window, bucket, total, aged, held, first, newest, oldest, head, tail: see window_read
local BUDGET = '<ddd' -- spent, held, end
local RECORD = '<I6I7' -- newest stamp, running total
local RECORD_BYTES = 13
local NO_HOLD = '\0\0\0\0\0\0\0\0\0\0\0' -- stands for a call in flight that holds nothing
local RECORDS_A_CHUNK = 19 -- 247 bytes, which with their header fill an allocation of 256

local pack, unpack_bytes, floor, call -- not there yet while the library is loaded: see register

--- Plans: parsed once per text; a memory, not a state ----------------------------------------------------------------

local plans, plan_count = {}, 0

local function plan_parse(text)
  local plan = { lines = {}, fields = { 'clock' }, index = {}, values = {}, n = 0 }
  for entry in string.gmatch(text, '[^|]+') do
    local kind, name, second, third, stamp, capacity =
      string.match(entry, '^(%a) (%S+) (%S*) (%d+) (.) (%d+)$')
    local line = { field = kind .. ':' .. name .. ':' .. second, capacity = tonumber(capacity) }
    if kind == 'w' then
      line.window, line.bucket, line.at_admission = tonumber(second), tonumber(third), stamp == 'a'
    else
      line.ends = tonumber(third)
    end
    plan.n = plan.n + 1
    plan.lines[plan.n] = line
    plan.fields[plan.n + 1] = line.field
    plan.index[line.field] = plan.n
  end
  plan.names = table.concat(plan.fields, '|', 2)
  plan.answer = '<' .. string.rep('i8', 5 + 3 * plan.n)
  return plan
end

local function plan_of(text)
  local plan = plans[text]
  if not plan then
    if plan_count >= PLANS_MAX then
      plans, plan_count = {}, 0
    end
    plan = plan_parse(text)
    plans[text], plan_count = plan, plan_count + 1
  end
  return plan
end

-- The fields of limits as calls in flight keep them, joined: as a list, and each field's place in it.
local name_lists, name_list_count = {}, 0

local function names_of(names)
  local list = name_lists[names]
  if not list then
    if name_list_count >= PLANS_MAX then
      name_lists, name_list_count = {}, 0
    end
    list = { index = {} }
    for field in string.gmatch(names, '[^|]+') do
      table.insert(list, field)
      list.index[field] = #list
    end
    name_lists[names], name_list_count = list, name_list_count + 1
  end
  return list
end

-- What a settlement or heartbeat tells of a limit; nil when nothing, or when it is in already (stamped at admission).
local function told(plan, args, field)
  local index = plan.index[field]
  if index and not plan.lines[index].at_admission then
    return tonumber(args[4 + index])
  end
  return nil
end

--- Window logs: closed buckets in chunks, the open bucket and all sums in the header ---------------------------------

-- head, tail: numbers of the first closed bucket that counts and of the next to be closed. total: running total with
-- the open bucket. aged: the running total before head. first, newest: stamps of the open bucket, newest -1 when there
-- is none. oldest: newest stamp of the oldest bucket that counts. While any bucket counts, the open one does.
-- The tables are built whole, with every field that they will have: one allocation.
local function window_read(account, field, bytes)
  local window, bucket, total, aged, held, first, newest, oldest, head, tail = unpack_bytes(WINDOW, bytes)
  return {
    account = account, field = field, is_window = true, chunks = false, dirty = false, window = window, bucket = bucket,
    total = total, aged = aged, held = held, first = first, newest = newest, oldest = oldest, head = head, tail = tail,
  }
end

local function window_new(account, line)
  return {
    account = account, field = line.field, is_window = true, chunks = false, dirty = true, window = line.window,
    bucket = line.bucket, total = 0, aged = 0, held = 0, first = -1, newest = -1, oldest = -1, head = 0, tail = 0,
  }
end

local function chunk_field(log, number)
  return 'c:' .. log.field .. ':' .. number
end

local function chunk_read(log, number)
  log.chunks = log.chunks or {}
  local bytes = log.chunks[number]
  if not bytes then
    bytes = call('HGET', log.account.keys[1], chunk_field(log, number)) or ''
    log.chunks[number] = bytes
  end
  return bytes
end

local function chunk_write(log, number, bytes)
  log.chunks = log.chunks or {}
  log.chunks[number] = bytes
  log.account.writes[chunk_field(log, number)] = bytes
end

local function chunks_drop(log, from, to)
  for number = from, to do
    local field = chunk_field(log, number)
    log.account.writes[field] = nil
    table.insert(log.account.drops, field)
  end
end

-- Newest stamp and running total of a closed bucket.
local function record_read(log, index)
  local bytes = chunk_read(log, floor(index / RECORDS_A_CHUNK))
  return unpack_bytes(RECORD, bytes, index % RECORDS_A_CHUNK * RECORD_BYTES + 1)
end

-- The first closed bucket from `low` on whose stamp (which = 1) or running total (which = 2) is at least `value`; tail
-- if there is none.
local function record_find(log, low, which, value)
  local high = log.tail
  while low < high do
    local middle = floor((low + high) / 2)
    local newest, total = record_read(log, middle)
    if (which == 1 and newest or total) >= value then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local function window_age(log, now)
  local horizon = now - log.window
  if log.newest < 0 or log.oldest > horizon then
    return
  end
  log.dirty = true
  local first_chunk = floor(log.head / RECORDS_A_CHUNK)
  if log.newest <= horizon then
    chunks_drop(log, first_chunk, floor((log.tail - 1) / RECORDS_A_CHUNK))
    log.total, log.aged, log.first, log.newest, log.oldest, log.head, log.tail = 0, 0, -1, -1, -1, 0, 0
    return
  end
  local live = log.head + 1 -- head itself has aged out; most often the next has not
  if live < log.tail and record_read(log, live) <= horizon then
    live = record_find(log, live + 1, 1, horizon + 1)
  end
  local _, aged = record_read(log, live - 1)
  log.aged, log.head = aged, live
  log.oldest = live < log.tail and record_read(log, live) or log.newest
  chunks_drop(log, first_chunk, floor(live / RECORDS_A_CHUNK) - 1)
end

-- Take `amount` from the running totals of the closed buckets from `from` on, and from the total.
local function window_shift(log, from, amount)
  for number = floor(from / RECORDS_A_CHUNK), floor((log.tail - 1) / RECORDS_A_CHUNK) do
    local bytes, shifted = chunk_read(log, number), {}
    for index = 0, #bytes / RECORD_BYTES - 1 do
      local newest, total = unpack_bytes(RECORD, bytes, index * RECORD_BYTES + 1)
      local is_in = number * RECORDS_A_CHUNK + index >= from
      shifted[index + 1] = pack(RECORD, newest, is_in and total - amount or total)
    end
    chunk_write(log, number, table.concat(shifted))
  end
  log.total = log.total - amount
end

local function window_add_bucket(log, first, newest, amount)
  if log.newest >= 0 then
    local number = floor(log.tail / RECORDS_A_CHUNK)
    local before = log.tail % RECORDS_A_CHUNK > 0 and chunk_read(log, number) or ''
    chunk_write(log, number, before .. pack(RECORD, log.newest, log.total))
    log.tail = log.tail + 1
  else
    log.oldest = newest
  end
  log.first, log.newest, log.total = first, newest, log.total + amount
end

local function window_add(log, stamp, amount)
  amount = math.min(amount, AMOUNT_MAX - (log.total - log.aged))
  if amount <= 0 then
    return
  end
  log.dirty = true
  if log.total > AMOUNT_MAX - amount then -- the running total begins again
    window_shift(log, log.head, log.aged)
    log.aged = 0
  end
  if log.newest >= 0 and stamp - log.first < log.bucket then
    if log.head == log.tail then
      log.oldest = stamp
    end
    log.newest, log.total = stamp, log.total + amount
  else
    window_add_bucket(log, stamp, stamp, amount)
  end
end

local function window_correct(log, stamp, difference, now)
  if difference > 0 then
    window_add(log, now, difference)
  elseif difference < 0 and stamp > now - log.window and log.newest >= 0 then
    window_shift(log, record_find(log, log.head, 1, stamp), -difference)
    log.dirty = true
  end
end

--- Both kinds of limit -----------------------------------------------------------------------------------------------

local function log_read(account, field, bytes)
  if string.sub(field, 1, 1) == 'w' then
    return window_read(account, field, bytes)
  end
  local spent, held, ends = unpack_bytes(BUDGET, bytes)
  return { account = account, field = field, is_window = false, dirty = false, spent = spent, held = held, ends = ends }
end

local function log_write(log)
  if log.is_window then
    return pack(WINDOW, log.window, log.bucket, log.total, log.aged, log.held, log.first, log.newest, log.oldest,
      log.head, log.tail)
  end
  return pack(BUDGET, log.spent, log.held, log.ends)
end

-- The log of a field, be it in the plan or not; nil when the account has none.
local function log_of(account, field)
  local log = account.logs[field]
  if not log then
    local bytes = call('HGET', account.keys[1], field)
    if bytes then
      log = log_read(account, field, bytes)
      account.logs[field] = log
    end
  end
  return log
end

local function log_used(log)
  return log.is_window and log.total - log.aged or log.spent
end

local function log_add(log, stamp, amount)
  if log.is_window then
    window_age(log, stamp)
    window_add(log, stamp, amount)
  elseif amount > 0 then
    log.spent, log.dirty = math.min(log.spent + amount, AMOUNT_MAX), true
  end
end

local function log_correct(log, stamp, difference, now)
  if log.is_window then
    window_age(log, now)
    window_correct(log, stamp, difference, now)
  elseif difference ~= 0 then
    log.spent, log.dirty = math.min(math.max(log.spent + difference, 0), AMOUNT_MAX), true
  end
end

local function log_hold(log, difference)
  if difference ~= 0 then
    log.held, log.dirty = log.held + difference, true
  end
end

local function log_reset(log, now)
  if not log.is_window then
    return log.ends
  elseif log.held > 0 then
    return now + log.window
  end
  return log.total > log.aged and log.newest + log.window or now
end

--- Calls in flight, and gone -----------------------------------------------------------------------------------------

-- A hold is { expiry, n, held and known of the first limit, of the second..., names = , answer = }.
local hold_formats = {}

local function hold_format(n)
  local format = hold_formats[n]
  if not format then
    format = '<dB' .. string.rep('dd', n)
    hold_formats[n] = format
  end
  return format
end

local function hold_write(hold)
  return pack(hold_format(hold[2]), unpack(hold, 1, 2 + 2 * hold[2]))
    .. pack('<I2', #hold.names) .. hold.names .. hold.answer
end

local function hold_read(bytes)
  local n = string.byte(bytes, 9)
  local hold, at = { unpack_bytes(hold_format(n), bytes) }, 10 + 16 * n
  local length = unpack_bytes('<I2', bytes, at)
  hold.names, hold.answer = string.sub(bytes, at + 2, at + 1 + length), string.sub(bytes, at + 2 + length)
  return hold
end

-- Expiry of a call in flight, and what it holds and is known to have used of one limit.
local function hold_part(bytes, field)
  local expires, n = unpack_bytes('<dB', bytes)
  local length = unpack_bytes('<I2', bytes, 10 + 16 * n)
  local index = names_of(string.sub(bytes, 12 + 16 * n, 11 + 16 * n + length)).index[field]
  if not index then
    return expires, 0, 0
  end
  local held, known = unpack_bytes('<dd', bytes, 16 * index - 6)
  return expires, held, known
end

local function gone_write(account, call_id, bytes)
  if call('HEXISTS', account.keys[4 - account.gone_current], call_id) == 1 then
    call('HSET', account.keys[4 - account.gone_current], call_id, bytes)
    return
  end
  local key = account.keys[3 + account.gone_current]
  if account.now - account.gone_started >= DAY_MS or call('HLEN', key) >= GONE_CALLS_MAX then
    account.gone_current, account.gone_started = 1 - account.gone_current, account.now
    key = account.keys[3 + account.gone_current]
    call('DEL', key)
  end
  call('HSET', key, call_id, bytes)
  call('PEXPIRE', key, 2 * DAY_MS)
end

-- -> { at = , names = , charged of the first limit, of the second... }; without names when final; nil when forgotten
local function gone_read(account, call_id)
  local bytes = call('HGET', account.keys[3], call_id) or call('HGET', account.keys[4], call_id)
  if not bytes then
    return nil
  end
  local at = unpack_bytes('<d', bytes)
  if account.now >= at + DAY_MS then
    return nil
  elseif #bytes == 8 then
    return { at = at }
  end
  local n = string.byte(bytes, 9)
  local gone = { unpack_bytes('<' .. string.rep('d', n), bytes, 10) }
  gone.at, gone.names = at, string.sub(bytes, 10 + 8 * n + 2)
  return gone
end

local function hold_expire(account, call_id, hold)
  local expires, charged = hold[1], {}
  for index, field in ipairs(names_of(hold.names)) do
    local log, held, known = log_of(account, field), hold[1 + 2 * index], hold[2 + 2 * index]
    if log then
      log_hold(log, -held)
      log_add(log, expires, known)
    end
    charged[index] = pack('<d', known)
  end
  local rest = ''
  if #charged > 0 then
    rest = pack('<B', #charged) .. table.concat(charged) .. pack('<I2', #hold.names) .. hold.names
  end
  gone_write(account, call_id, pack('<d', expires) .. rest)
  call('HDEL', account.keys[1], 'h:' .. call_id)
end

-- The sorted set is a key of its own, and can be lost alone: then it is made again from the holds.
local function expiries_heal(account)
  if call('ZCARD', account.keys[2]) == account.holds then
    return
  end
  local state, holds = call('HGETALL', account.keys[1]), 0
  call('DEL', account.keys[2])
  for index = 1, #state, 2 do
    if string.sub(state[index], 1, 2) == 'h:' then
      call('ZADD', account.keys[2], unpack_bytes('<d', state[index + 1]), string.sub(state[index], 3))
      holds = holds + 1
    end
  end
  account.holds = holds
end

local function expire_due(account)
  if account.now < account.next_expiry then
    return
  end
  expiries_heal(account)
  for _, call_id in ipairs(call('ZRANGEBYSCORE', account.keys[2], '-inf', account.now)) do
    local bytes = call('HGET', account.keys[1], 'h:' .. call_id)
    if bytes then
      hold_expire(account, call_id, hold_read(bytes))
      account.holds = account.holds - 1
    end
    if call_id == account.call_id then
      account.hold_bytes = false
    end
  end
  call('ZREMRANGEBYSCORE', account.keys[2], '-inf', account.now)
  local next_one = call('ZRANGE', account.keys[2], 0, 0, 'WITHSCORES')
  account.next_expiry = next_one[2] and tonumber(next_one[2]) or AMOUNT_MAX
end

local function hold_put(account, hold)
  account.writes['h:' .. account.call_id] = hold_write(hold)
  call('ZADD', account.keys[2], hold[1], account.call_id)
  account.next_expiry = math.min(account.next_expiry, hold[1])
end

local function hold_drop(account)
  call('ZREM', account.keys[2], account.call_id)
  table.insert(account.drops, 'h:' .. account.call_id)
  account.holds = account.holds - 1
end

--- The account: read by one command, written by one or two -----------------------------------------------------------

local function account_read(keys, call_id, clock)
  local seen, next_expiry, holds, epoch, gone_current, gone_started, touched, kept = unpack_bytes(CLOCK, clock)
  return {
    keys = keys, call_id = call_id, clock_bytes = clock, hold_bytes = false, ordered = false, logs = {}, writes = {},
    drops = {}, now = seen, next_expiry = next_expiry, holds = holds, epoch = epoch, gone_current = gone_current,
    gone_started = gone_started, touched = touched, kept = kept,
  }
end

local function time_now(argument)
  if argument ~= '' then
    return tonumber(argument)
  end
  local time = call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The account as the verb finds it: clock guarded, what is due expired. nil when it or a limit of the plan is unknown.
local function account_open(keys, args, plan)
  local fields = plan.fields
  fields[plan.n + 2] = 'h:' .. args[2]
  local values = call('HMGET', keys[1], unpack(fields))
  if not values[1] then
    return nil
  end
  local account = account_read(keys, args[2], values[1])
  for index = 1, plan.n do
    local bytes = values[index + 1]
    if not bytes then
      return nil
    end
    account.logs[fields[index + 1]] = log_read(account, fields[index + 1], bytes)
  end
  account.hold_bytes = values[plan.n + 2]
  account.now = math.max(account.now, time_now(args[1]))
  expire_due(account)
  return account
end

-- Write what has changed. A chunk can be dropped and begun again in one verb, hence the order.
local saved = {} -- used again and again: only its first n values are meant

local function account_save(account)
  local key, values, n = account.keys[1], saved, 0
  if #account.drops > 0 then
    call('HDEL', key, unpack(account.drops))
  end
  local is_touch = account.now - account.touched >= TOUCH_MS
  if is_touch then
    account.touched = account.now
  end
  local clock = pack(CLOCK, account.now, account.next_expiry, account.holds, account.epoch, account.gone_current,
    account.gone_started, account.touched, account.kept)
  if clock ~= account.clock_bytes then
    values[1], values[2], n = 'clock', clock, 2
  end
  for field, log in pairs(account.logs) do
    if log.dirty then
      values[n + 1], values[n + 2], n = field, log_write(log), n + 2
    end
  end
  for field, bytes in pairs(account.writes) do
    values[n + 1], values[n + 2], n = field, bytes, n + 2
  end
  if n > 0 then
    call('HSET', key, unpack(values, 1, n))
  end
  if is_touch then
    call('PEXPIRE', key, account.kept)
    call('PEXPIRE', account.keys[2], account.kept)
  end
end

-- status, now, number of the limit that refused, wait, epoch, then used, held, reset of each limit: 8 bytes each
local function answer(account, plan, status, bound, wait)
  local values = plan.values
  values[1], values[2], values[3], values[4], values[5] = status, account.now, bound, wait, account.epoch
  for index = 1, plan.n do
    local log, at = account.logs[plan.fields[index + 1]], 3 + 3 * index
    values[at], values[at + 1], values[at + 2] = log_used(log), log.held, log_reset(log, account.now)
  end
  return pack(plan.answer, unpack(values))
end

--- When there is room again (rule 8) ---------------------------------------------------------------------------------

-- The call in flight that expires as the index-th, as it is kept; read as far as needed, most often not far.
local function held_at(account, index)
  local ordered = account.ordered or {}
  account.ordered = ordered
  if index > #ordered and not ordered.is_whole then
    local count = math.max(1, 3 * #ordered) -- most often the first is all that is asked for
    local ids = call('ZRANGE', account.keys[2], #ordered, #ordered + count - 1)
    ordered.is_whole = #ids < count
    for number, id in ipairs(ids) do
      ids[number] = 'h:' .. id
    end
    if #ids > 0 then
      for _, bytes in ipairs(call('HMGET', account.keys[1], unpack(ids))) do
        table.insert(ordered, bytes or NO_HOLD)
      end
    end
  end
  return ordered[index]
end

local function budget_frees_at(account, log, excess)
  local ends = log.ends > 0 and math.max(log.ends, account.now + 1) or AMOUNT_MAX
  local index = 1
  while log.held > 0 do
    local bytes = held_at(account, index)
    if not bytes then
      break
    end
    local expires, held, known = hold_part(bytes, log.field)
    excess = excess - (held - known)
    if excess <= 0 and held > 0 then
      return math.min(expires, ends)
    end
    index = index + 1
  end
  return ends
end

-- When the buckets from closed number `index` on, then those of `later`, make up `excess`; nil: they do not.
local function buckets_free_at(log, index, before, later, excess)
  local found = record_find(log, index, 2, before + excess)
  if found < log.tail then
    return record_read(log, found) + log.window
  end
  if index < log.tail then
    local _, closed = record_read(log, log.tail - 1)
    excess = excess - (closed - before)
  end
  for _, bucket in ipairs(later) do
    excess = excess - bucket.amount
    if excess <= 0 then
      return bucket.newest + log.window
    end
  end
  return nil
end

-- The open bucket as the first of the list that expiring holds will go on.
local function open_bucket(log)
  if log.newest < 0 then
    return {}
  end
  local before = log.aged
  if log.head < log.tail then
    local _, total = record_read(log, log.tail - 1)
    before = total
  end
  return { { first = log.first, newest = log.newest, amount = log.total - before } }
end

-- Do to `later` what window_add will do to the log when the hold expires.
local function later_add(log, later, expires, known)
  local last = later[#later]
  if known > 0 and last and expires - last.first < log.bucket then
    last.newest, last.amount = expires, last.amount + known
  elseif known > 0 then
    table.insert(later, { first = expires, newest = expires, amount = known })
  end
end

-- Events in order of time up to the last expiry, as WindowLog.frees_at has them; by halving after it.
local function window_frees_at(account, log, excess)
  local later = open_bucket(log)
  local alone = buckets_free_at(log, log.head, log.aged, later, excess)
  if log.held == 0 or (alone and alone <= account.next_expiry) then
    return alone
  end
  local index, before, number = log.head, log.aged, 1
  local bytes = held_at(account, number)
  while bytes do
    local expires, held, known = hold_part(bytes, log.field)
    while held > 0 do
      local newest, total
      if index < log.tail then
        newest, total = record_read(log, index)
      elseif later[1] then
        newest, total = later[1].newest, before + later[1].amount
      end
      if not newest or newest + log.window > expires then
        break
      end
      excess = excess - (total - before)
      if excess <= 0 then
        return newest + log.window
      end
      if index < log.tail then
        index, before = index + 1, total
      else
        table.remove(later, 1)
      end
    end
    if held > 0 then
      excess = excess - (held - known)
      later_add(log, later, expires, known)
      if excess <= 0 then
        return expires
      end
    end
    number = number + 1
    bytes = held_at(account, number)
  end
  return buckets_free_at(log, index, before, later, excess)
end

-- Number and wait of the limit that has no room for longest; 0 when all have.
local function refusal(account, plan, args, first)
  local bound, longest = 0, -1
  for index, line in ipairs(plan.lines) do
    local log, need, wait = account.logs[line.field], tonumber(args[first + index]), nil
    local excess = need - (line.capacity - log_used(log) - log.held)
    if need > line.capacity then
      wait = AMOUNT_MAX
    elseif excess > 0 then
      local at = log.is_window and window_frees_at(account, log, excess) or budget_frees_at(account, log, excess)
      wait = at == AMOUNT_MAX and at or at - account.now
    end
    if wait and wait > longest then
      bound, longest = index, wait
    end
  end
  return bound, longest
end

--- The verbs ---------------------------------------------------------------------------------------------------------

local function logs_age(account, plan)
  for index = 1, plan.n do
    local log = account.logs[plan.fields[index + 1]]
    if log.is_window then
      window_age(log, account.now)
    end
  end
end

-- Take every limit's need, or none.
-- ARGV 4: life of the hold in ms; 5...: needs, one per limit of the plan.
-- Answers the bytes of `answer` (status 1 admitted, 0 refused; those of the first answer for a call in flight), or
-- -1: the account or a limit is unknown, seed it and ask again.
local function admit(keys, args)
  local plan = plan_of(args[3])
  local account = account_open(keys, args, plan)
  if not account then
    return -1
  end
  if account.hold_bytes then
    account_save(account)
    return hold_read(account.hold_bytes).answer
  end
  logs_age(account, plan)
  local bound, wait = refusal(account, plan, args, 4)
  if bound > 0 then
    account_save(account)
    return answer(account, plan, 0, bound, wait)
  end
  local hold = { account.now + tonumber(args[4]), plan.n }
  for index, line in ipairs(plan.lines) do
    local log, need = account.logs[line.field], tonumber(args[4 + index])
    if line.at_admission then
      window_add(log, account.now, need)
      need = 0
    else
      log_hold(log, need)
    end
    hold[1 + 2 * index], hold[2 + 2 * index] = need, 0
  end
  local given = answer(account, plan, 1, 0, 0)
  hold.names, hold.answer = plan.names, given
  hold_put(account, hold)
  account.holds = account.holds + 1
  account_save(account)
  if account.holds == 1 then
    call('PEXPIRE', keys[2], account.kept)
  end
  return given
end

local function settle_hold(account, plan, args)
  local hold = hold_read(account.hold_bytes)
  for index, field in ipairs(names_of(hold.names)) do
    local log = log_of(account, field)
    if log then
      log_hold(log, -hold[1 + 2 * index])
      log_add(log, account.now, told(plan, args, field) or hold[2 + 2 * index])
    end
  end
  hold_drop(account)
end

local function settle_late(account, gone, plan, args)
  for index, field in ipairs(names_of(gone.names)) do
    local log, charged = log_of(account, field), gone[index]
    if log then
      log_correct(log, gone.at, (told(plan, args, field) or charged) - charged, account.now)
    end
  end
  gone_write(account, account.call_id, pack('<d', gone.at))
end

-- Count a call that is not known here.
local function settle_unknown(account, plan, args, with_admission)
  for index, line in ipairs(plan.lines) do
    if with_admission or not line.at_admission then
      log_add(account.logs[line.field], account.now, tonumber(args[4 + index]))
    end
  end
  gone_write(account, account.call_id, pack('<d', account.now))
end

-- Replace the hold by what was used.
-- ARGV 4: epoch of the admission. 0: not known. -1: the call was admitted elsewhere (the verb `record`): it counts
--   whole.
--   An epoch other than the account's: the state was lost since, and the hold with it: the call counts now.
-- ARGV 5...: amounts, one per limit of the plan.
-- Answers 1 settled, 2 an expired call was corrected, 3 counted without a hold, 0 nothing changed, -1 unknown account.
local function settle(keys, args)
  local plan, epoch = plan_of(args[3]), tonumber(args[4])
  local account = account_open(keys, args, plan)
  if not account then
    return -1
  end
  local code, gone = 0, nil
  if account.hold_bytes then
    settle_hold(account, plan, args)
    if epoch == -1 then
      gone_write(account, args[2], pack('<d', account.now))
    end
    code = 1
  else
    gone = gone_read(account, args[2])
    if gone and gone.names then
      settle_late(account, gone, plan, args)
      code = 2
    elseif not gone and epoch ~= 0 and epoch ~= account.epoch then
      settle_unknown(account, plan, args, epoch == -1)
      code = 3
    end
  end
  account_save(account)
  return code
end

-- Let `change` work on the hold of the call, and answer what it returns; 0: the hold is gone, -1: unknown account.
local function on_hold(keys, args, change)
  local plan = plan_of(args[3])
  local account = account_open(keys, args, plan)
  if not account then
    return -1
  end
  local code = 0
  if account.hold_bytes then
    code = change(account, plan, args, hold_read(account.hold_bytes))
  end
  account_save(account)
  return code
end

local function hold_renew(account, args, hold)
  hold[1] = account.now + tonumber(args[4])
  hold_put(account, hold)
end

local function hold_extend(account, plan, args, hold)
  for index, field in ipairs(names_of(hold.names)) do
    local log, known, at = log_of(account, field), told(plan, args, field), 1 + 2 * index
    if log and known then
      local held = math.max(hold[at], known)
      log_hold(log, held - hold[at])
      hold[at], hold[at + 1] = held, math.max(hold[at + 1], known)
    end
  end
  hold_renew(account, args, hold)
  return 1
end

local function hold_grow(account, plan, args, hold)
  logs_age(account, plan)
  local names = names_of(hold.names)
  for index, field in ipairs(names) do
    local want, held = told(plan, args, field), hold[1 + 2 * index]
    if want and want > held then
      local log = log_of(account, field)
      if log_used(log) + log.held + want - held > plan.lines[plan.index[field]].capacity then
        return 2
      end
    end
  end
  for index, field in ipairs(names) do
    local want, at = told(plan, args, field), 1 + 2 * index
    if want and want > hold[at] then
      log_hold(log_of(account, field), want - hold[at])
      hold[at] = want
    end
  end
  hold_renew(account, args, hold)
  return 1
end

local function hold_release(account, _, _, hold)
  for index, field in ipairs(names_of(hold.names)) do
    local log = log_of(account, field)
    if log then
      log_hold(log, -hold[1 + 2 * index])
    end
  end
  hold_drop(account)
  return 1
end

-- Renew the hold's life, and note what is known: never less than before, and held where it exceeds the hold.
-- ARGV 4: life in ms; 5...: known amounts, one per limit of the plan.
-- Answers 1, or as on_hold does.
local function extend(keys, args)
  return on_hold(keys, args, hold_extend)
end

-- Raise the holds to what is wanted and renew them, if every limit has room for the difference; else do nothing.
-- ARGV 4: life in ms; 5...: wanted amounts, one per limit of the plan.
-- Answers 1 granted, 2 refused, or as on_hold does.
local function grow(keys, args)
  return on_hold(keys, args, hold_grow)
end

-- Give the hold back; what was stamped at admission stays used.
-- Answers 1, or as on_hold does.
local function release(keys, args)
  return on_hold(keys, args, hold_release)
end

-- Return the states. ARGV 2 is ''. Answers as admit does, status 1.
local function peek(keys, args)
  local plan = plan_of(args[3])
  local account = account_open(keys, args, plan)
  if not account then
    return -1
  end
  logs_age(account, plan)
  account_save(account)
  return answer(account, plan, 1, 0, 0)
end

-- Add to what is spent of budgets, or take from it, for the ledger knows better. Holds stay as they are: whatever calls
-- in flight may still use remains taken.
-- ARGV 2 is ''. ARGV 4...: differences, one per limit of the plan, which are all budgets.
-- Answers 1, or -1: the account or a limit is unknown.
local function correct(keys, args)
  local plan = plan_of(args[3])
  local account = account_open(keys, args, plan)
  if not account then
    return -1
  end
  for index, line in ipairs(plan.lines) do
    log_correct(account.logs[line.field], 0, tonumber(args[3 + index]), account.now)
  end
  account_save(account)
  return 1
end

local function account_new(keys, now, epoch, kept)
  call('DEL', unpack(keys)) -- what may be left of a state that was lost
  return {
    keys = keys, call_id = '', logs = {}, writes = {}, drops = {}, now = now, next_expiry = AMOUNT_MAX, holds = 0,
    epoch = epoch, gone_current = 0, gone_started = now, touched = 0, kept = kept,
  }
end

local function budgets_prune(account)
  for _, field in ipairs(call('HKEYS', account.keys[1])) do
    if string.sub(field, 1, 2) == 'b:' then
      local log = log_of(account, field)
      if log.ends > 0 and log.held == 0 and account.now > log.ends + BUDGET_KEPT_MS then
        account.logs[field] = nil
        call('HDEL', account.keys[1], field)
      end
    end
  end
end

-- Begin the account and the limits of the plan that are not known; what is known stays as it is.
-- ARGV 2: epoch, for an account that is new. 4: how long the state is kept when nothing is heard of the account, in ms.
-- 5...: one per limit of the plan, a budget's spent amount, or a window's
--   buckets: 8 bytes each first stamp, newest stamp, amount. Then the ids of calls that these amounts have counted.
-- Answers 1 when the account is new, else 0.
local function seed(keys, args)
  local plan, now = plan_of(args[3]), time_now(args[1])
  local bytes, account = call('HGET', keys[1], 'clock'), nil
  if bytes then
    account = account_read(keys, '', bytes)
    account.now = math.max(account.now, now)
    expire_due(account)
  else
    account = account_new(keys, now, tonumber(args[2]), tonumber(args[4]))
    for index = 5 + plan.n, #args do
      gone_write(account, args[index], pack('<d', now))
    end
  end
  budgets_prune(account)
  for index, line in ipairs(plan.lines) do
    if not log_of(account, line.field) then
      local value, log = args[4 + index], nil
      if line.window then
        log = window_new(account, line)
        for at = 1, #value, 24 do
          local first, newest, amount = unpack_bytes('<i8i8i8', value, at)
          newest = math.min(newest, account.now)
          window_add_bucket(log, math.min(first, newest), newest, amount)
        end
      else
        log = { account = account, field = line.field, is_window = false, dirty = true, spent = tonumber(value),
          held = 0, ends = line.ends }
      end
      account.logs[line.field] = log
    end
  end
  account_save(account)
  return bytes and 0 or 1
end

-- Say which generation of states is the one to use. A Redis that has been started again, or taken the place of another,
-- may know less than was known: its states are left alone, and new ones are seeded under the next generation's names.
-- KEYS 1: hash: run, generation. ARGV 1: the run id of this Redis.
-- Answers the generation.
local function attach(keys, args)
  if call('HGET', keys[1], 'run') ~= args[1] then
    call('HSET', keys[1], 'run', args[1])
    call('HINCRBY', keys[1], 'generation', 1)
  end
  return tonumber(call('HGET', keys[1], 'generation'))
end

local renewing = { run = '', cursor = '0', is_done = false } -- gone with the run of this Redis, as it must be

-- Forget every account, once in a run: for a primary of a cluster whose data were made in another, and may be old.
-- There keys must not be renamed as attach would have it: an account that moves to another primary keeps its names.
-- No KEYS. ARGV 1: the run id of this Redis.
-- Answers 1: some keys are forgotten, call again before anything else is asked of this Redis; 0: all are.
local function renew(_, args)
  if renewing.run ~= args[1] then
    renewing = { run = args[1], cursor = '0', is_done = false }
  end
  if not renewing.is_done then
    local found = call('SCAN', renewing.cursor, 'MATCH', 'tollgate:*', 'COUNT', 1000)
    for _, key in ipairs(found[2]) do
      call('UNLINK', key) -- one by one: they are in different slots
    end
    renewing.cursor, renewing.is_done = found[1], found[1] == '0'
  end
  return renewing.is_done and 0 or 1
end

local function register(name, verb, flags)
  local function callback(keys, args)
    pack, unpack_bytes, floor, call = struct.pack, struct.unpack, math.floor, redis.call
    return verb(keys, args)
  end
  redis.register_function({ function_name = 'LIBRARY_NAME_' .. name, callback = callback, flags = flags })
end

register('admit', admit, {})
register('peek', peek, {})
register('seed', seed, {})
register('attach', attach, {})
-- These give room back: they run when Redis is out of memory, too.
register('settle', settle, { 'allow-oom' })
register('release', release, { 'allow-oom' })
register('extend', extend, { 'allow-oom' })
register('grow', grow, { 'allow-oom' })
register('correct', correct, { 'allow-oom' })
register('renew', renew, { 'allow-oom', 'allow-cross-slot-keys' })
