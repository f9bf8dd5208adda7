// Package logonce logs a lasting failure once, although it is found again and again.
package logonce

// Last is the text that was logged last. The zero value is ready to use. It is not safe
// for concurrent use.
type Last struct{ text string }

// Changes reports whether text differs from the last one, and remembers it. A caller logs
// only such a text. The empty text stands for success.
func (l *Last) Changes(text string) bool {
	if text == l.text {
		return false
	}
	l.text = text
	return true
}
