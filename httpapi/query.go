package httpapi

import (
	"net/url"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
)

// verboseParam is the only parameter without a value. 1 and true are accepted, because
// other programs take them.
const verboseParam = "verbose"

var verboseValues = []string{"", "1", "true"}

// checkQuery requires that the query string has only the given parameters, each once and
// with a value. Otherwise a misspelt filter would answer with everything.
func checkQuery(c *gin.Context, params []string) error {
	if c.Request.URL.RawQuery == "" {
		return nil
	}
	var f commands.Faults
	var seen []string
	for pair := range strings.SplitSeq(c.Request.URL.RawQuery, "&") {
		if pair == "" {
			continue
		}
		raw, rawValue, _ := strings.Cut(pair, "=")
		name, nameErr := url.QueryUnescape(raw)
		value, valueErr := url.QueryUnescape(rawValue)
		switch {
		case nameErr != nil:
			f.Add(raw, "is not a valid name of a parameter")
		case !slices.Contains(params, name):
			f.Add(name, "is not a parameter of this route")
		case slices.Contains(seen, name):
			f.Add(name, "must be given once")
		case valueErr != nil, strings.Contains(rawValue, ";"):
			f.Add(name, "must be encoded: write %% as %%25, + as %%2B and ; as %%3B")
		case name == verboseParam && !slices.Contains(verboseValues, value):
			f.Add(name, "needs no value")
		case name != verboseParam && value == "":
			f.Add(name, "must not be empty")
		}
		seen = append(seen, name)
	}
	return f.Err()
}
