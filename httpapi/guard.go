package httpapi

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
)

// guard refuses a request before any handler sees it, if its host is not one of this API,
// if the page of another origin sent it, or if its headers contradict each other.
func (a *api) guard(c *gin.Context) {
	for _, check := range []func(*gin.Context) error{a.checkHost, a.checkOrigin, checkHeaders} {
		if err := check(c); err != nil {
			a.fail(c, err)
			return
		}
	}
}

// checkHost requires a host of this API. The page of another site can make a browser send
// requests here, by pointing the name of its own host to this address, but the Host
// header then has that name.
//
// A probe may send any host to the health routes: their plain answers are one word.
func (a *api) checkHost(c *gin.Context) error {
	health := c.Request.URL.Path == "/livez" || c.Request.URL.Path == "/readyz"
	if health && c.Request.URL.RawQuery == "" || a.hosts.allow(c.Request.Host) {
		return nil
	}
	const detail = "%q is not a host of this service; STOCKSTREAM_HTTP_HOSTS lists the hosts"
	return &requestError{codeWrongHost, fmt.Sprintf(detail, c.Request.Host)}
}

// checkOrigin refuses what a browser sends for the page of another origin, unless it only
// reads.
func (a *api) checkOrigin(c *gin.Context) error {
	if err := a.CrossOrigin.Check(c.Request); err != nil {
		const detail = "a web page of another origin sent this; " +
			"STOCKSTREAM_HTTP_ORIGINS lists the origins that may"
		return fmt.Errorf("%w: %w", &requestError{codeCrossOrigin, detail}, err)
	}
	return nil
}

// headersRead are the headers that this API reads. net/http checks Host, Content-Length
// and Transfer-Encoding.
var headersRead = []string{
	"Content-Type", "Content-Encoding", "Idempotency-Key", "X-Request-Id", "Traceparent", "Origin",
	"Sec-Fetch-Site",
}

// checkHeaders refuses a header with two different values, and an encoded body.
func checkHeaders(c *gin.Context) error {
	var f commands.Faults
	for name, values := range c.Request.Header {
		if len(values) < 2 || !slices.Contains(headersRead, name) {
			continue
		}
		if slices.ContainsFunc(values, func(value string) bool { return value != values[0] }) {
			f.Add(name, "is there with different values")
		}
	}
	encoding := c.GetHeader("Content-Encoding")
	if encoding != "" && !strings.EqualFold(encoding, "identity") {
		f.Add("Content-Encoding", "must be identity: send the body as it is")
	}
	return f.Err()
}

// hosts decides which values of the Host header are accepted. The port does not matter.
type hosts struct {
	names     map[string]bool // in lower case; an IPv6 address is without brackets
	every     bool
	addresses bool // whether every IP address is accepted
}

// hostsOf returns the hosts for an API that listens on an address, with further names, of
// which "*" accepts every host.
//
// An API that listens beyond loopback also accepts every IP address. It has addresses
// that it does not know, and a page cannot point an address somewhere else.
func hostsOf(addr string, names []string) hosts {
	h := hosts{names: map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true}}
	listen, _, _ := net.SplitHostPort(addr)
	ip, err := netip.ParseAddr(listen)
	switch {
	case listen == "":
		h.addresses = addr != ""
	case err == nil && ip.IsUnspecified():
		h.addresses = true
	default:
		h.addresses = listen != "localhost" && !ip.IsLoopback()
		h.names[strings.ToLower(listen)] = true
	}
	for _, name := range names {
		h.every = h.every || name == "*"
		h.names[strings.ToLower(strings.Trim(name, "[]"))] = true
	}
	return h
}

func (h hosts) allow(header string) bool {
	if h.every {
		return true
	}
	name := (&url.URL{Host: header}).Hostname()
	if h.names[name] || h.names[strings.ToLower(name)] {
		return true
	}
	_, err := netip.ParseAddr(name)
	return h.addresses && err == nil
}

// CheckHostName returns an error unless a name can be one of Config.Hosts.
func CheckHostName(name string) error {
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	if name == "" || err != nil && strings.ContainsAny(name, ":/ []") {
		return fmt.Errorf("%q: want a host's name or IP address, without a port, or *", name)
	}
	return nil
}

// answerHeaders sets the headers of every answer: a browser must not guess another
// content type from the body, and no cache keeps an answer.
func answerHeaders(c *gin.Context) {
	header := c.Writer.Header()
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
}

// One list each for all answers, so that a request allocates none.
var (
	nosniff = []string{"nosniff"}
	noStore = []string{"no-store"}
)
