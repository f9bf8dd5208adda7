package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
	fastjson "github.com/goccy/go-json"

	"github.com/stockstream/stockstream/commands"
)

const (
	bodyMaxBytes = 64 << 10
	// smallBodyMaxBytes is the size up to which readBody trusts the Content-Length and
	// allocates a buffer of that size.
	smallBodyMaxBytes = 1 << 10
)

// decode reads the request's body into a struct whose fields are no objects or lists. The
// body must be one JSON object without unknown or repeated fields, and nothing may follow
// it. If emptyAllowed, an empty body counts as an empty object.
//
// The content type must be JSON even then. A web page cannot send that to another origin
// without asking first.
func decode(c *gin.Context, into any, emptyAllowed bool) error {
	if err := requireJSON(c); err != nil {
		return err
	}
	body, err := readBody(c)
	if err != nil {
		return err
	}
	if len(body) == 0 && emptyAllowed {
		return nil
	}
	if decodeObject(fastjson.NewDecoder(bytes.NewReader(body)), into) != nil {
		// The slower encoding/json decides about all bodies that goccy/go-json refuses,
		// and explains their faults.
		if err := decodeObject(json.NewDecoder(bytes.NewReader(body)), into); err != nil {
			return err
		}
	}
	return checkNames(body)
}

// decodeNothing requires an empty body, or an empty object.
func decodeNothing(c *gin.Context) error { return decode(c, &struct{}{}, true) }

// jsonDecoder is a decoder of encoding/json or of goccy/go-json.
type jsonDecoder interface {
	DisallowUnknownFields()
	Decode(into any) error
	Token() (json.Token, error)
}

// decodeObject decodes the only value of a body.
func decodeObject(decoder jsonDecoder, into any) error {
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return malformed(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return &requestError{codeMalformed, "the body has more than one JSON value"}
	}
	return nil
}

// checkNames refuses names in capitals and repeated names, in an object that decodeObject
// accepted. The decoders ignore the case of a name, and of two values they keep the last.
// All names of this API are in lower case.
func checkNames(object []byte) error {
	seen := make([][]byte, 0, 8)
	for {
		name, rest, found := nextName(object)
		if !found {
			return nil
		}
		if !isLowerCase(name) {
			detail := fmt.Sprintf("unknown field %q: names are in lower case", name)
			return &requestError{codeMalformed, detail}
		}
		for _, other := range seen {
			if bytes.Equal(other, name) {
				return &requestError{codeMalformed, fmt.Sprintf("the field %q is there twice", name)}
			}
		}
		seen = append(seen, name)
		object = rest
	}
}

func isLowerCase(name []byte) bool {
	for _, b := range name {
		if (b < 'a' || b > 'z') && b != '_' {
			return false
		}
	}
	return true
}

// nextName returns the first name in a valid JSON text, without its escapes, and the text
// after it. A name is a string before a colon.
func nextName(text []byte) (name, rest []byte, found bool) {
	for {
		quote := bytes.IndexByte(text, '"')
		if quote < 0 {
			return nil, nil, false
		}
		inside := text[quote+1:]
		end := stringEnd(inside)
		text = inside[min(end+1, len(inside)):]
		for len(text) > 0 && text[0] <= ' ' { // white space
			text = text[1:]
		}
		if len(text) > 0 && text[0] == ':' {
			return unescape(inside[:end]), text, true
		}
	}
}

// stringEnd returns the index of the quote that ends a string.
func stringEnd(text []byte) int {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i
		case '\\':
			i++ // the next character belongs to the escape
		}
	}
	return len(text)
}

// unescape returns the inside of a JSON string without its escapes.
func unescape(inside []byte) []byte {
	if bytes.IndexByte(inside, '\\') < 0 {
		return inside
	}
	var text string
	if json.Unmarshal(slices.Concat([]byte{'"'}, inside, []byte{'"'}), &text) != nil {
		return inside // has a backslash, so it is not the name of a field
	}
	return []byte(text)
}

var errBodyTooLarge = &requestError{codeTooLarge, fmt.Sprintf("a body may have %d bytes", bodyMaxBytes)}

// readBody reads at most one byte more than a body may have. net/http discards the rest
// of a larger body, so that the connection can be used again.
func readBody(c *gin.Context) ([]byte, error) {
	if c.Request.ContentLength > bodyMaxBytes {
		return nil, errBodyTooLarge
	}
	var body []byte
	var err error
	if length := c.Request.ContentLength; length >= 0 && length <= smallBodyMaxBytes {
		body = make([]byte, length)
		_, err = io.ReadFull(c.Request.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(c.Request.Body, bodyMaxBytes+1))
	}
	switch {
	case err != nil:
		return nil, &requestError{codeMalformed, "the body could not be read to its end"}
	case len(body) > bodyMaxBytes:
		return nil, errBodyTooLarge
	}
	return body, nil
}

// requireJSON returns an error unless the request's Content-Type is JSON in UTF-8.
func requireJSON(c *gin.Context) error {
	header := c.GetHeader("Content-Type")
	if header == "application/json" {
		return nil
	}
	mediaType, params, err := mime.ParseMediaType(header)
	charset := strings.ToLower(params["charset"])
	isUTF8 := charset == "" || charset == "utf-8"
	if err != nil || mediaType != "application/json" || !isUTF8 {
		return &requestError{codeContentType, "send Content-Type: application/json"}
	}
	return nil
}

// malformed returns an error that explains a JSON fault without names of Go types.
func malformed(err error) error {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return invalid(wrongType.Field, "must be "+kind(wrongType.Type.Kind().String()))
	case errors.As(err, &wrongType):
		return &requestError{codeMalformed, "the body must be a JSON object"}
	case errors.As(err, &syntax):
		detail := fmt.Sprintf("the body is not JSON: %s at byte %d", syntax.Error(), syntax.Offset)
		return &requestError{codeMalformed, detail}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &requestError{codeMalformed, "the body ends in the middle of its JSON"}
	}
	return &requestError{codeMalformed, strings.TrimPrefix(err.Error(), "json: ")}
}

// kind returns the name of a JSON type for people, with its article.
func kind(goKind string) string {
	if strings.HasPrefix(goKind, "int") {
		return "a whole number"
	}
	return "a " + goKind
}

func invalid(field, message string) error {
	return &commands.ValidationError{Fields: []commands.FieldError{{Field: field, Message: message}}}
}

// idempotencyKey returns the key from the header Idempotency-Key or from the body. If
// both are given, they must be equal. The header's value may be quoted, as the IETF draft
// requires, or not.
func idempotencyKey(c *gin.Context, inBody string) (string, error) {
	header := c.GetHeader("Idempotency-Key")
	if len(header) >= 2 && header[0] == '"' && header[len(header)-1] == '"' {
		header = header[1 : len(header)-1]
	}
	switch {
	case header == "" && inBody == "":
		return "", invalid("idempotency_key", "is required, here or as the header Idempotency-Key")
	case header == "" || header == inBody:
		return inBody, nil
	case inBody == "":
		return header, nil
	}
	return "", invalid("idempotency_key", "differs from the header Idempotency-Key")
}

// holdID returns the hold's id from the path or from the body. If both are given, they
// must be equal.
func holdID(c *gin.Context, inBody string) (string, error) {
	inPath := c.Param("id")
	if inPath != "" && inBody != "" && inPath != inBody {
		return "", invalid("hold_id", "differs from the id in the path")
	}
	if inPath != "" {
		return inPath, nil
	}
	return inBody, nil
}
