package commands

import (
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// The rules, by the names of their files.
const (
	ruleReserve = "reserve"
	ruleConfirm = "confirm"
	ruleCancel  = "cancel"
	ruleAdjust  = "adjust"
)

// decideScript decides any number of commands in one call; see lua/decide.lua.
var decideScript = redis.NewScript(source("prelude") + source(ruleReserve) + source(ruleConfirm) + source(ruleCancel) +
	source(ruleAdjust) + source("decide"))

var canWriteScript = redis.NewScript(source("can_write"))

func source(name string) string {
	text, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // embedded: it is there, or the build is broken
	}
	return string(text)
}

// The status words of the rules, and of the script as a whole; the headers say which file answers which.
const (
	statusDecided             = "DECIDED"
	statusFailed              = "FAILED"
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
)
