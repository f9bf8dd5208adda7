-- Decide: decides the commands of a call in their order, each by its rule, and then saves
-- the stock, the due set and the log head.
--
-- KEYS  as in prelude.lua
-- ARGV  as in prelude.lua
-- Answers  {DECIDED, epoch, seq (the end of the log), now (ms), answers} with one answer
--            per command, in order:
--            {status, seq, values…} as the rule's header says, or
--            {FAILED, seq, error} if the rule failed before it appended an event, for
--              example by an error of Redis
--            {BROKEN_OFF, seq, error} if it failed after that: the command is in the log,
--              but its other writes are missing
--            {NOT_READY, seq} for the commands after one that broke off
--          {NOT_READY, …}, {OTHER_SERVER, …} or {STALE, …} with the same fields and no
--            answers, if no command was decided
-- Keeps  A command that fails does not affect those before it, nor, if it could be
--        unpacked, those after it. After a call that broke off, the log head is
--        unreadable, and no command is decided.
local next_key = 4 -- index in KEYS of the next command's first key

local function decide(k, name, ...)
  local rule = rules[name]
  next_key = k + rule.keys
  return rule.decide(k, ...)
end

-- Unpacks a command and decides it. If it cannot be unpacked, next_key stays nil: the
-- keys of the next command are then unknown, and all commands after it fail as well.
local function read_and_decide(packed)
  local k = next_key
  next_key = nil
  return decide(k, cmsgpack.unpack(packed))
end

local answers = {}
local broken_off = false
for i = 3, #ARGV do
  local result
  if broken_off then
    result = answer('NOT_READY')
  else
    local seq = log.seq
    local decided
    decided, result = pcall(read_and_decide, ARGV[i])
    if not decided then
      local err = type(result) == 'table' and result.err or tostring(result)
      broken_off = log.seq > seq
      result = broken_off and answer('BROKEN_OFF', err) or answer('FAILED', err)
    end
  end
  answers[#answers + 1] = result
end
-- If the save fails, the answers are right all the same: they follow from the log.
if not broken_off then pcall(save) end
return {'DECIDED', log.epoch, log.seq, log.now_ms, answers}
