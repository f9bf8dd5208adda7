// Package plainjson reads and writes JSON as nearly all of ours is: one flat object of texts that need no escapes and of
// whole numbers. It takes a fifth of the time of encoding/json, and does as that does: what is not plain is left to it.
package plainjson

import "unicode/utf8"

// Read reads an object whose fields go where field says, which names neither place for one that it does not know. It
// reports false for everything that is not plain, be it legal or not, and may have filled some fields by then.
func Read(object []byte, field func(name string) (text *string, number *int64)) bool {
	s := scanner{text: string(object)} // the texts that are read are parts of this one
	if !s.take('{') {
		return false
	}
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return false
		}
		name, ok := s.string()
		if !ok || !s.take(':') {
			return false
		}
		text, number := field(name)
		switch {
		case text != nil:
			*text, ok = s.string()
		case number != nil:
			*number, ok = s.number()
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	s.space()
	return s.text == ""
}

// scanner takes one token after the other off a text.
type scanner struct{ text string }

func (s *scanner) space() {
	for s.text != "" && (s.text[0] == ' ' || s.text[0] == '\n' || s.text[0] == '\t' || s.text[0] == '\r') {
		s.text = s.text[1:]
	}
}

// take takes one character, which space may precede.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.text == "" || s.text[0] != c {
		return false
	}
	s.text = s.text[1:]
	return true
}

// string takes a text that stands for itself.
func (s *scanner) string() (string, bool) {
	if !s.take('"') {
		return "", false
	}
	ascii := true
	for i := range len(s.text) {
		switch c := s.text[i]; {
		case c == '"':
			value := s.text[:i]
			s.text = s.text[i+1:]
			return value, ascii || utf8.ValidString(value)
		case c == '\\' || c < ' ':
			return "", false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return "", false
}

// number takes a whole number of up to eighteen digits.
func (s *scanner) number() (n int64, ok bool) {
	negative := s.take('-') // and the digits follow at once
	const digitsMax = 18
	digits := 0
	for ; digits < len(s.text) && s.text[digits] >= '0' && s.text[digits] <= '9'; digits++ {
		n = n*10 + int64(s.text[digits]-'0')
		if digits == digitsMax {
			return 0, false
		}
	}
	if digits == 0 || digits > 1 && s.text[0] == '0' {
		return 0, false
	}
	s.text = s.text[digits:]
	if negative {
		n = -n
	}
	return n, true
}
