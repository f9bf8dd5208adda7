// Package httpapi is the service over HTTP: routes, bodies, and errors as RFC 9457 problem documents.
//
// Handlers are plain Gin; the types of their requests and answers stand beside them, so that an API document can be
// made from the same types (docs/adr/0002 says why there is no framework in between). What a request may hold is
// decided by commands; this package decides only whether it is a request at all.
package httpapi
