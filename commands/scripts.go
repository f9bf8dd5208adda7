package commands

import (
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// The rules of the commands, each named like its file in lua/.
const (
	ruleReserve = "reserve"
	ruleConfirm = "confirm"
	ruleCancel  = "cancel"
	ruleAdjust  = "adjust"
)

// decideScript decides the commands of one batch. It consists of the prelude, the rules,
// and decide.lua, which runs them.
var decideScript = redis.NewScript(
	source("prelude") +
		source(ruleReserve) +
		source(ruleConfirm) +
		source(ruleCancel) +
		source(ruleAdjust) +
		source("decide"))

// canWriteScript fails if Redis would refuse to write.
var canWriteScript = redis.NewScript(source("can_write"))

// source returns the text of a file in lua/.
func source(name string) string {
	text, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // the file is embedded, so its absence is a broken build
	}
	return string(text)
}

// The status words of the scripts. Each file's header says which ones it answers.
const (
	statusDecided             = "DECIDED"
	statusFailed              = "FAILED"
	statusBrokenOff           = "BROKEN_OFF"
	statusCreated             = "CREATED"
	statusConfirmed           = "CONFIRMED"
	statusCancelled           = "CANCELLED"
	statusExpired             = "EXPIRED"
	statusAdjusted            = "ADJUSTED"
	statusReplayed            = "REPLAYED"
	statusIdempotencyMismatch = "IDEMPOTENCY_MISMATCH"
	statusSoldOut             = "SOLD_OUT"
	statusInsufficientStock   = "INSUFFICIENT_STOCK"
	statusStockLimit          = "STOCK_LIMIT"
	statusUnknownSKU          = "UNKNOWN_SKU"
	statusUnknownHold         = "UNKNOWN_HOLD"
	statusHoldConfirmed       = "HOLD_CONFIRMED"
	statusHoldCancelled       = "HOLD_CANCELLED"
	statusHoldExpired         = "HOLD_EXPIRED"
	statusHoldChanged         = "HOLD_CHANGED"
	statusNotDue              = "NOT_DUE"
	statusStateInvalid        = "STATE_INVALID"
	statusNotReady            = "NOT_READY"
	statusStale               = "STALE"
	statusOtherServer         = "OTHER_SERVER"
	statusSameServer          = "SAME_SERVER"
)
