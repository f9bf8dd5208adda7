package redisclient

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestForms checks how each form of a URL is read.
func TestForms(t *testing.T) {
	t.Parallel()
	server, err := parse("rediss://ann:pw@r1:7000/2?read_timeout=3s")
	if err != nil {
		t.Fatal(err)
	}
	if o := server.server; o.Addr != "r1:7000" || o.DB != 2 || o.TLSConfig == nil {
		t.Errorf("server: got %+v", o)
	}
	if got := server.server.ReadTimeout; got != 3*time.Second {
		t.Errorf("server: got read timeout %s, want 3s", got)
	}
	sentinel, err := parse("rediss+sentinel://ann:pw@s1,s2:7000,[::1]:7001/stock?db=1&sentinel_password=spw")
	if err != nil {
		t.Fatal(err)
	}
	o := sentinel.sentinel
	if want := []string{"s1:26379", "s2:7000", "[::1]:7001"}; !slices.Equal(o.SentinelAddrs, want) {
		t.Errorf("Sentinels: got %v, want %v", o.SentinelAddrs, want)
	}
	if o.MasterName != "stock" || o.DB != 1 || o.TLSConfig == nil {
		t.Errorf("Sentinel: got name %q, database %d, TLS %t", o.MasterName, o.DB, o.TLSConfig != nil)
	}
	if o.Username != "ann" || o.Password != "pw" || o.SentinelUsername != "" || o.SentinelPassword != "spw" {
		t.Errorf("Sentinel: got logins %q %q and %q %q",
			o.Username, o.Password, o.SentinelUsername, o.SentinelPassword)
	}
	cluster, err := parse("redis+cluster://ann:p@w@c1:7000,c2")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"c1:7000", "c2:6379"}; !slices.Equal(cluster.cluster.Addrs, want) {
		t.Errorf("cluster: got %v, want %v", cluster.cluster.Addrs, want)
	}
	if got := cluster.cluster.Password; got != "p@w" {
		t.Errorf("cluster: got password %q, want p@w", got)
	}
	if cluster.cluster.TLSConfig != nil {
		t.Error("cluster: got TLS, want none")
	}
	if !IsCluster("redis+cluster://c1") || IsCluster("redis://c1") {
		t.Error("IsCluster is wrong")
	}
}

// TestInvalidURLs checks that each fault is an error that quotes no part of the URL.
func TestInvalidURLs(t *testing.T) {
	t.Parallel()
	urls := []string{
		"",
		"s3cr3t",
		"s3cr3t://r1",
		"redis://:s3cr3t#x@r1:6379",
		"redis://r1/s3cr3t",
		"redis://r1?s3cr3t=1",
		"redis+s3cr3t://r1",
		"redis+sentinel://s1",
		"redis+sentinel://s1/a/s3cr3t",
		"redis+sentinel:///stock",
		"redis+sentinel://s1,,s3cr3t/stock",
		"redis+sentinel://s1/stock?s3cr3t=1",
		"redis+sentinel://s1/stock?replica_only=true",
		"redis+cluster://c1/1",
		"redis+cluster://c1,c2?route_randomly=true",
		"redis+cluster://c1,c2?s3cr3t=1",
		"unix+cluster://c1",
		"http+cluster://c1",
	}
	for _, rawURL := range urls {
		client, err := Open(rawURL)
		if err == nil {
			t.Errorf("%q: got a client, want an error", rawURL)
			_ = client.Close()
			continue
		}
		if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: the error quotes it: %v", rawURL, err)
		}
	}
}

// TestWithoutRetriesRepeatsNothing checks that only the new client is without retries.
func TestWithoutRetriesRepeatsNothing(t *testing.T) {
	t.Parallel()
	urls := []string{
		"redis://127.0.0.1:1",
		"redis+sentinel://127.0.0.1:1/stock",
		"redis+cluster://127.0.0.1:1",
	}
	for _, rawURL := range urls {
		client, err := Open(rawURL)
		if err != nil {
			t.Fatal(err)
		}
		once, closeOnce, err := WithoutRetries(client)
		if err != nil {
			t.Fatal(err)
		}
		if got := retries(once); got != 0 {
			t.Errorf("%s: got %d retries, want 0", rawURL, got)
		}
		if got := retries(client); got == 0 {
			t.Errorf("%s: the other client has no retries either, want them as before", rawURL)
		}
		if err := closeOnce(); err != nil {
			t.Error(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
	bare := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer bare.Close()
	if _, _, err := WithoutRetries(bare); err == nil {
		t.Error("a client without ContextTimeoutEnabled: got no error")
	}
}

func retries(client any) int {
	switch client := client.(type) {
	case *redis.Client:
		return client.Options().MaxRetries
	case *redis.ClusterClient:
		return client.Options().MaxRedirects
	}
	return -1
}
