package recovery

import (
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// The scripts that create, close and replace a pool's log. Besides the decide script,
// they alone change the log head.
var (
	initialiseScript   = redis.NewScript(source("initialise"))
	closeScript        = redis.NewScript(source("close_log"))
	reopenScript       = redis.NewScript(source("reopen_log"))
	beginRestoreScript = redis.NewScript(source("begin_restore"))
	publishScript      = redis.NewScript(source("publish_log"))
	raiseEpochScript   = redis.NewScript(source("raise_epoch"))
)

// source returns the text of a file in lua/.
func source(name string) string {
	text, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // the file is embedded, so its absence is a broken build
	}
	return string(text)
}

// The status words of the scripts; each file's header says which ones it answers.
const (
	statusInitialised = "INITIALISED"
	statusExists      = "EXISTS"
	statusClosed      = "CLOSED"
	statusChanged     = "CHANGED"
	statusReopened    = "REOPENED"
	statusGone        = "GONE"
	statusBegun       = "BEGUN"
	statusOpen        = "OPEN"
	statusSuperseded  = "SUPERSEDED"
	statusPublished   = "PUBLISHED"
	statusOtherServer = "OTHER_SERVER"
	statusRaised      = "RAISED"
)
