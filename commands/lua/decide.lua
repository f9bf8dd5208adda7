-- Decide: decides the commands of a call in their order, each by its rule, and then saves
-- the log head, the stock and the due set.
--
-- KEYS  as in prelude.lua
-- ARGV  as in prelude.lua
-- Answers  {DECIDED, epoch, seq (the end of the log), now (ms), answers} with one answer
--            per command, in order:
--            {status, seq, values…} as the rule's header says, or
--            {FAILED, seq, error} if the rule failed, for example by an error of Redis
--          {NOT_READY, …}, {OTHER_SERVER, …} or {STALE, …} with the same fields and no
--            answers, if no command was decided
-- Keeps  A command that fails does not affect those before it, nor, if it could be
--        unpacked, those after it. The log head is always saved.
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
for i = 3, #ARGV do
  local decided, result = pcall(read_and_decide, ARGV[i])
  if not decided then
    result = answer('FAILED', type(result) == 'table' and result.err or tostring(result))
  end
  answers[#answers + 1] = result
end
save()
return {'DECIDED', log.epoch, log.seq, log.now_ms, answers}
