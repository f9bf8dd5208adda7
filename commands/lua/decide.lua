-- Decide: one command after the other, each by its rule, and then everything they have come to is written.
--
-- KEYS  as in prelude.lua
-- ARGV  as in prelude.lua
-- Answers  {DECIDED, epoch, end of the log, now (ms), answers}: one answer per command, in order; each begins with a
--          status word, and with FAILED where Redis itself refused, followed by its words. {NOT_READY, …} and
--          {STALE, …} speak for all commands, and none was looked at.
-- Keeps  a command that fails takes nothing from its neighbours, and the end of the log is saved whatever happens.
local next_key = 4

local function decide(k, name, ...)
  local rule = rules[name]
  next_key = k + rule.keys
  return rule.decide(k, ...)
end

-- Where a command cannot be read, it is not known which keys are the next one's, and all that follow fail with it.
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
