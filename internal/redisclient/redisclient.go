// Package redisclient opens a client of Redis for a URL: of one server, of the primary
// that Sentinels name, or of a cluster. It imports nothing of ours.
package redisclient

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// forms describes the URLs that Open accepts.
const forms = "redis://host:port/db, redis+sentinel://host:port,host:port/name or redis+cluster://host:port,host:port " +
	"(rediss instead of redis for TLS), or unix:///path, with special characters in percent-encoding"

// errURL never quotes the URL, which may contain a password.
var errURL = errors.New("not a valid Redis URL; want " + forms)

// slotsInterval is how old a cluster client's map of slots may get. go-redis reloads the
// map when a node answers MOVED, which a dead node does not do.
const slotsInterval = time.Second

const (
	sentinelPort = "26379"
	redisPort    = "6379"
)

// readFromReplicas lists options of go-redis that send commands to replicas. A replica
// may lack the newest events, and cannot write.
var readFromReplicas = []string{
	"read_only", "route_by_latency", "route_randomly", "replica_only", "use_disconnected_replicas",
}

// endpoint is a parsed URL.
type endpoint struct {
	server   *redis.Options
	sentinel *redis.FailoverOptions
	cluster  *redis.ClusterOptions
}

// Open returns a client that the caller closes. It does not connect yet. Errors do not
// quote the URL.
func Open(rawURL string) (redis.UniversalClient, error) {
	e, err := parse(rawURL)
	switch {
	case err != nil:
		return nil, err
	case e.cluster != nil:
		return newCluster(e.cluster), nil
	case e.sentinel != nil:
		return redis.NewFailoverClient(e.sentinel), nil
	}
	return redis.NewClient(e.server), nil
}

// Check returns the error that Open would return.
func Check(rawURL string) error {
	_, err := parse(rawURL)
	return err
}

// IsCluster reports whether Open returns a client of a cluster for a valid URL.
func IsCluster(rawURL string) bool {
	e, err := parse(rawURL)
	return err == nil && e.cluster != nil
}

func parse(rawURL string) (e endpoint, err error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok || strings.Contains(rawURL, "#") { // a "#" in a password ends the host for net/url
		return e, errURL
	}
	base, kind, _ := strings.Cut(scheme, "+")
	switch kind {
	case "":
		e.server, err = parseServer(rawURL)
	case "sentinel":
		e.sentinel, err = parseSentinel(base, rest)
	case "cluster":
		e.cluster, err = parseCluster(base, rest)
	default:
		return e, errURL
	}
	return e, err
}

func parseServer(rawURL string) (*redis.Options, error) {
	options, err := redis.ParseURL(rawURL)
	if err != nil {
		return nil, errURL
	}
	options.ContextTimeoutEnabled = true
	options.DialerRetries = 1
	setTimeouts(&options.DialTimeout, &options.ReadTimeout)
	return options, nil
}

// parseSentinel parses the part of a Sentinel URL after its scheme. User and password are
// those of Redis; the options sentinel_username and sentinel_password are those of the
// Sentinels.
func parseSentinel(base, rest string) (*redis.FailoverOptions, error) {
	u, hosts, err := splitHosts(base, rest, sentinelPort)
	if err != nil {
		return nil, err
	}
	name := strings.Trim(u.Path, "/")
	if name == "" || strings.Contains(name, "/") {
		return nil, errors.New("not a valid Redis URL: a Sentinel URL ends with the name of the primary, " +
			"as in redis+sentinel://host:port,host:port/name")
	}
	query := u.Query()
	sentinelUser := query.Get("sentinel_username")
	sentinelPassword := query.Get("sentinel_password")
	query.Del("sentinel_username")
	query.Del("sentinel_password")
	query.Set("master_name", name)
	u.RawQuery = query.Encode()
	u.Path = ""
	user := u.User
	u.User = nil
	options, err := redis.ParseFailoverURL(u.String())
	if err != nil {
		return nil, errURL
	}
	options.SentinelAddrs = hosts
	options.SentinelUsername = sentinelUser
	options.SentinelPassword = sentinelPassword
	options.Username = user.Username()
	options.Password, _ = user.Password()
	options.ContextTimeoutEnabled = true
	options.DialerRetries = 1
	setTimeouts(&options.DialTimeout, &options.ReadTimeout)
	return options, nil
}

// parseCluster parses the part of a cluster URL after its scheme.
func parseCluster(base, rest string) (*redis.ClusterOptions, error) {
	u, hosts, err := splitHosts(base, rest, redisPort)
	if err != nil {
		return nil, err
	}
	if strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("not a valid Redis URL: a cluster has no databases, so its URL has no path")
	}
	u.Path = ""
	options, err := redis.ParseClusterURL(u.String())
	if err != nil {
		return nil, errURL
	}
	options.Addrs = hosts
	options.ContextTimeoutEnabled = true
	options.ClusterStateReloadInterval = slotsInterval
	options.DisableRoutingPolicies = true // route by key alone, without the right to run COMMAND
	options.DialerRetries = 1
	setTimeouts(&options.DialTimeout, &options.ReadTimeout)
	return options, nil
}

// splitHosts parses a URL with several hosts, which net/url does not. It returns the
// hosts with their ports, and the URL with the first host only.
func splitHosts(base, rest, defaultPort string) (u *url.URL, hosts []string, err error) {
	authority := rest
	tail := ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	login := ""
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		login, authority = authority[:i+1], authority[i+1:]
	}
	for host := range strings.SplitSeq(authority, ",") {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		if name, port, err := net.SplitHostPort(host); err != nil || name == "" || port == "" {
			return nil, nil, errURL
		}
		hosts = append(hosts, host)
	}
	u, err = url.Parse(base + "://" + login + hosts[0] + tail)
	if err != nil || base != "redis" && base != "rediss" {
		return nil, nil, errURL
	}
	for _, option := range readFromReplicas {
		if u.Query().Has(option) {
			return nil, nil, errors.New("not a valid Redis URL: option " + option +
				" would read from replicas, which may lack the newest events")
		}
	}
	return u, hosts, nil
}

// setTimeouts sets time-outs that are short enough for a command's deadline to take
// effect. Time-outs that the URL sets (?read_timeout=…) take precedence.
func setTimeouts(dial, read *time.Duration) {
	for _, timeout := range []*time.Duration{dial, read} {
		if *timeout == 0 {
			*timeout = 2 * time.Second
		}
	}
}

// newCluster returns a client of a cluster that also reloads its map of slots when it
// cannot connect to a node. Otherwise it would not notice a promoted replica until the
// map is due.
func newCluster(options *redis.ClusterOptions) *redis.ClusterClient {
	var client *redis.ClusterClient
	dial := redis.NewDialer(&redis.Options{
		DialTimeout: options.DialTimeout,
		TLSConfig:   options.TLSConfig,
	})
	options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil && ctx.Err() == nil {
			client.ReloadState(ctx)
		}
		return conn, err
	}
	client = redis.NewClusterClient(options)
	return client
}

// WithoutRetries returns a client of the same Redis that never repeats a command by
// itself, and a function that closes it. The original client must stay open.
func WithoutRetries(client redis.UniversalClient) (c redis.Scripter, closeClient func() error, err error) {
	switch client := client.(type) {
	case *redis.Client: // shares the connections
		timeouts := client.Options()
		if !timeouts.ContextTimeoutEnabled {
			return nil, nil, errNoContextTimeout
		}
		once := client.WithTimeout(timeouts.ReadTimeout) // its options are a copy
		once.Options().WriteTimeout = timeouts.WriteTimeout
		once.Options().MaxRetries = 0
		return once, func() error { return nil }, nil
	case *redis.ClusterClient: // has connections of its own
		options := *client.Options()
		if !options.ContextTimeoutEnabled {
			return nil, nil, errNoContextTimeout
		}
		options.MaxRedirects = -1
		once := newCluster(&options)
		return once, once.Close, nil
	}
	return nil, nil, errors.New("the Redis client is of an unknown type")
}

var errNoContextTimeout = errors.New("the Redis client needs ContextTimeoutEnabled: " +
	"without it, commands wait longer than their timeout for a Redis that does not answer")

// Node returns a client of the one server that has a key, for questions about that
// server. It is closed with the given client.
func Node(ctx context.Context, client redis.UniversalClient, key string) (*redis.Client, error) {
	switch client := client.(type) {
	case *redis.Client:
		return client, nil
	case *redis.ClusterClient:
		return client.MasterForKey(ctx, key)
	}
	return nil, errors.New("the Redis client is of an unknown type")
}
