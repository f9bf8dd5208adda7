package commands

import (
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// The scripts, each with the prelude in front.
var (
	reserveScript    = load("reserve")
	confirmScript    = load("confirm")
	cancelScript     = load("cancel")
	adjustScript     = load("adjust")
	initialiseScript = redis.NewScript(source("initialise"))
)

func load(name string) *redis.Script { return redis.NewScript(source("prelude") + source(name)) }

func source(name string) string {
	text, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // embedded: it is there, or the build is broken
	}
	return string(text)
}

// The status words of the scripts; their headers say which script answers which.
const (
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
	statusInitialised         = "INITIALISED"
	statusExists              = "EXISTS"
)
