package plainjson

import (
	"encoding/json"
	"strconv"
)

// Object is a JSON object in the making: a name and a value at a time, and then End. Its zero value has no field yet.
type Object []byte

// Text adds a text.
func (o Object) Text(name, value string) Object {
	o = o.name(name)
	for i := range len(value) {
		switch c := value[i]; {
		case c < ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			escaped, _ := json.Marshal(value) // of a string, it does not fail
			return append(o, escaped...)
		}
	}
	return append(append(append(o, '"'), value...), '"')
}

// Int adds a whole number.
func (o Object) Int(name string, value int64) Object {
	return strconv.AppendInt(o.name(name), value, 10)
}

// End returns the whole object.
func (o Object) End() []byte {
	if len(o) == 0 {
		o = append(o, '{')
	}
	return append(o, '}')
}

// name adds a name, which must need no escapes.
func (o Object) name(name string) Object {
	opening := byte(',')
	if len(o) == 0 {
		opening = '{'
	}
	return append(append(append(o, opening, '"'), name...), `":`...)
}
