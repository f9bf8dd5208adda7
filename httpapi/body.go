package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/internal/plainjson"
)

const (
	bodyMaxBytes   = 64 << 10
	bodyPlainBytes = 1 << 10 // room is made for at once; for more than that, as it comes
)

// decode reads a request's body into a struct: one JSON object, no unknown fields, nothing behind it. An empty body
// is an empty object where the route allows one.
func decode(c *gin.Context, into any, emptyAllowed bool) error {
	body, err := readBody(c)
	if err != nil {
		return err
	}
	if len(body) == 0 && emptyAllowed {
		return nil
	}
	if err := requireJSON(c); err != nil {
		return err
	}
	if request, ok := into.(plainRequest); ok && plainjson.Read(body, request.field) {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return malformed(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return &requestError{codeMalformed, "the body holds more than one JSON value"}
	}
	return nil
}

// plainRequest is a request that is worth reading the short way.
type plainRequest interface {
	field(name string) (text *string, number *int64)
}

// readBody reads no more than it must to know that a body is too large, which leaves the connection usable.
func readBody(c *gin.Context) ([]byte, error) {
	tooLarge := &requestError{codeTooLarge, fmt.Sprintf("a body may have %d bytes", bodyMaxBytes)}
	if c.Request.ContentLength > bodyMaxBytes {
		return nil, tooLarge
	}
	var body []byte
	var err error
	if length := c.Request.ContentLength; length >= 0 && length <= bodyPlainBytes {
		body = make([]byte, length)
		_, err = io.ReadFull(c.Request.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(c.Request.Body, bodyMaxBytes+1))
	}
	switch {
	case err != nil:
		return nil, &requestError{codeMalformed, "the body could not be read to its end"}
	case len(body) > bodyMaxBytes:
		return nil, tooLarge
	}
	return body, nil
}

func requireJSON(c *gin.Context) error {
	header := c.GetHeader("Content-Type")
	if header == "application/json" {
		return nil
	}
	mediaType, params, err := mime.ParseMediaType(header)
	charset := strings.ToLower(params["charset"])
	if err != nil || mediaType != "application/json" || charset != "" && charset != "utf-8" {
		return &requestError{codeContentType, "send Content-Type: application/json"}
	}
	return nil
}

// malformed says in a client's words what is wrong with its JSON.
func malformed(err error) error {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return invalid(wrongType.Field, "must be "+kind(wrongType.Type.Kind().String()))
	case errors.As(err, &wrongType):
		return &requestError{codeMalformed, "the body must be a JSON object"}
	case errors.As(err, &syntax):
		return &requestError{codeMalformed, fmt.Sprintf("the body is no JSON: %s at byte %d", syntax.Error(), syntax.Offset)}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &requestError{codeMalformed, "the body ends in the middle of its JSON"}
	}
	return &requestError{codeMalformed, strings.TrimPrefix(err.Error(), "json: ")}
}

func kind(goKind string) string {
	if strings.HasPrefix(goKind, "int") {
		return "a whole number"
	}
	return "a " + goKind
}

func invalid(field, message string) error {
	return &commands.ValidationError{Fields: []commands.FieldError{{Field: field, Message: message}}}
}

// idempotencyKey returns the key from the header or from the body; where both are given they must agree. The header
// may be a quoted string, as the IETF's draft has it, or plain.
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

// holdID returns the hold's id from the path or from the body; where both are given they must agree.
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
