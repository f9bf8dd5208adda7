// Package httpapi serves the commands and the read tables over HTTP. Errors are RFC 9457
// problem documents.
//
// Handlers are plain Gin; docs/adr/0002 explains why there is no framework on top. The
// types of a route's request and answer stand beside its handler, so that an API document
// can be generated from them. This package rejects requests that it cannot read; whether
// their values are valid is decided by package commands.
package httpapi
