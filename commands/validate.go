package commands

import (
	"fmt"
	"strings"
	"time"

	"github.com/stockstream/stockstream/events"
)

// FieldError is one fault in one field of a command.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// ValidationError is the refusal of a command that was not sent to Redis. It lists every
// fault.
type ValidationError struct{ Fields []FieldError }

func (e *ValidationError) Error() string {
	texts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		texts[i] = f.Field + " " + f.Message
	}
	return strings.Join(texts, "; ")
}

// Limits of what a command may ask for.
const (
	QtyMax         = 1_000_000         // units in one hold
	DeltaMax       = 1_000_000_000_000 // units in one adjustment
	StockReadable  = 10 * DeltaMax     // units; a larger number is not a valid stock counter
	skuMax         = 64                // characters, like the next five
	userIDMax      = 64
	keyMax         = 128
	paymentRefMax  = 128
	reasonMax      = 64
	holdIDMax      = 64
	nameCharacters = "._-:@+=/" // allowed besides letters and digits
)

// Faults collects the faults of a request. It has the only checks of names, wherever a
// name comes in: in a body, a header, a path, a query or a flag.
type Faults []FieldError

// Add adds a fault of a field.
func (f *Faults) Add(field, format string, args ...any) {
	*f = append(*f, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
}

// Err returns a *ValidationError, or nil if there are no faults.
func (f *Faults) Err() error {
	if len(*f) == 0 {
		return nil
	}
	return &ValidationError{Fields: *f}
}

// SKU checks a SKU: a name without slashes, and not "." or "..", because a SKU also
// stands in the path of URLs, and HTTP clients rewrite such paths.
func (f *Faults) SKU(field, value string) {
	if value == "." || value == ".." {
		f.Add(field, "must not be . or ..")
	}
	f.text(field, value, skuMax, strings.TrimSuffix(nameCharacters, "/"))
}

// HoldID checks the id of a hold.
func (f *Faults) HoldID(field, value string) { f.name(field, value, holdIDMax) }

// OrderID checks the id of an order, which is derived from the id of its hold.
func (f *Faults) OrderID(field, value string) {
	f.name(field, value, len(events.OrderID(""))+holdIDMax)
}

// name checks an identifier that the client chose. It becomes part of a Redis key, and of
// JSON that a script builds, so quotes, spaces and control characters are not allowed,
// nor are braces, which would change the key's slot in a cluster.
func (f *Faults) name(field, value string, lengthMax int) {
	f.text(field, value, lengthMax, nameCharacters)
}

// text checks that a value is not empty, not too long, and made of letters, digits and
// the characters in others.
func (f *Faults) text(field, value string, lengthMax int, others string) {
	allowed := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune(others, r)
	}
	switch {
	case value == "":
		f.Add(field, "must not be empty")
	case len(value) > lengthMax:
		f.Add(field, "must have at most %d characters", lengthMax)
	case strings.IndexFunc(value, func(r rune) bool { return !allowed(r) }) >= 0:
		f.Add(field, "may contain only letters, digits and %s", strings.Join(strings.Split(others, ""), " "))
	}
}

// between checks that a number is from lowest to highest.
func (f *Faults) between(field string, value, lowest, highest int64) {
	if value < lowest || value > highest {
		f.Add(field, "must be from %d to %d", lowest, highest)
	}
}

// ttl checks a hold's ttl; 0 stands for the default.
func (f *Faults) ttl(ttl, ttlMax time.Duration) {
	if ttl != 0 && (ttl < time.Second || ttl > ttlMax) {
		f.Add("ttl_seconds", "must be from 1 to %d", int64(ttlMax/time.Second))
	}
}
