package commands

import (
	"fmt"
	"strings"
	"time"
)

// FieldError says what is wrong with one field of a command.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// ValidationError is a command that was refused before it reached Redis. It names every fault at once.
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
	stockReadable  = 10 * DeltaMax     // units; beyond it, a counter is none
	skuMax         = 64                // characters, as all below
	userIDMax      = 64
	keyMax         = 128
	paymentRefMax  = 128
	reasonMax      = 64
	holdIDMax      = 64
	nameCharacters = "._-:@+=/" // beside letters and digits
)

// faults collects what is wrong with a command.
type faults []FieldError

func (f *faults) add(field, format string, args ...any) {
	*f = append(*f, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
}

// name checks an identifier that a client chose: it becomes part of a key in Redis and of JSON built in a script, so
// braces (which would move it to another slot), quotes, spaces and control characters are out.
func (f *faults) name(field, value string, lengthMax int) {
	f.text(field, value, lengthMax, nameCharacters)
}

// sku is a name that also stands in the path of a URL, which clients tidy up.
func (f *faults) sku(value string) {
	if value == "." || value == ".." {
		f.add("sku", "must not be . or ..")
	}
	f.text("sku", value, skuMax, strings.TrimSuffix(nameCharacters, "/"))
}

// text checks a text of letters, digits and some other characters.
func (f *faults) text(field, value string, lengthMax int, others string) {
	allowed := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(others, r)
	}
	switch {
	case value == "":
		f.add(field, "must not be empty")
	case len(value) > lengthMax:
		f.add(field, "must have at most %d characters", lengthMax)
	case strings.IndexFunc(value, func(r rune) bool { return !allowed(r) }) >= 0:
		f.add(field, "may hold only letters, digits and %s", strings.Join(strings.Split(others, ""), " "))
	}
}

func (f *faults) between(field string, value, least, most int64) {
	if value < least || value > most {
		f.add(field, "must be from %d to %d", least, most)
	}
}

func (f *faults) ttl(ttl, ttlMax time.Duration) {
	if ttl != 0 && (ttl < time.Second || ttl > ttlMax) {
		f.add("ttl_seconds", "must be from 1 to %d", int64(ttlMax/time.Second))
	}
}

func (f *faults) err() error {
	if len(*f) == 0 {
		return nil
	}
	return &ValidationError{Fields: *f}
}
