package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestInvalidSettingsStopTheStart checks that the error names every invalid setting at
// once, and contains no password.
func TestInvalidSettingsStopTheStart(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args    []string
		environ []string
		says    []string // parts of the error
	}{
		"unknown variable": {
			environ: []string{"STOCKSTREAM_REDIS_ULR=x"},
			says:    []string{"STOCKSTREAM_REDIS_ULR is not a setting"},
		},
		"unknown flag": {
			args: []string{"--redis-ulr", "x"},
			says: []string{"unknown flag: --redis-ulr"},
		},
		"bad values": {
			args: []string{
				"--http-hosts", "shop.example:80,https://shop.example,",
				"--http-origins", "shop.example",
				"--redis-url", "ftp://x",
				"--database-url", "postgres://%zz",
				"--roles", "api,clerk",
				"--batch-max", "0",
				"--stream-keep", "-1s",
				"--drain-delay", "-1s",
				"--log-level", "loud",
				"--log-format", "xml",
			},
			says: []string{
				"STOCKSTREAM_REDIS_URL",
				"STOCKSTREAM_DATABASE_URL",
				`http hosts: "shop.example:80": want a host's name`,
				`http hosts: "https://shop.example"`,
				`http hosts: ""`,
				`http origins: invalid origin "shop.example"`,
				`roles: "clerk" is not one of api, journal`,
				"batch max 0",
				"stream keep",
				"drain delay",
				`log level "loud"`,
				`log format "xml"`,
			},
		},
		"a password": {
			args: []string{
				"--redis-url", "redis://:s3cret@host:port/0",
				"--database-url", "postgres://app:s3cret@host:port/x",
			},
			says: []string{"STOCKSTREAM_REDIS_URL", "STOCKSTREAM_DATABASE_URL"},
		},
		"a password with a special character": {
			environ: []string{
				"STOCKSTREAM_REDIS_URL=redis://:s3cret#x@host:6379/0",
				"STOCKSTREAM_DATABASE_URL=postgres://app:s3cret#x@host:5432/inventory",
			},
			says: []string{"STOCKSTREAM_REDIS_URL", "STOCKSTREAM_DATABASE_URL", "percent-encoding"},
		},
		"a password that looks like a port": {
			environ: []string{
				"STOCKSTREAM_REDIS_URL=redis://app:1234#s3cret@host:6379/0",
				"STOCKSTREAM_DATABASE_URL=postgres://app:1234/s3cret@host:5432/inventory",
			},
			says: []string{"STOCKSTREAM_REDIS_URL", "STOCKSTREAM_DATABASE_URL"},
		},
		"a password in key and value form": {
			environ: []string{"STOCKSTREAM_DATABASE_URL=host=x password = s3cret port=zz"},
			says:    []string{"STOCKSTREAM_DATABASE_URL"},
		},
		"relations": {
			args: []string{"--hold-ttl", "2h", "--keep-memory", "1m"},
			says: []string{"must not be below the default", "at least 24h0m0s", "must outlast"},
		},
		"no role": {
			args: []string{"--roles", ""},
			says: []string{"name at least one"},
		},
		"not a duration": {
			environ: []string{"STOCKSTREAM_HOLD_TTL=soon"},
			says:    []string{"STOCKSTREAM_HOLD_TTL", "soon"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := run(t.Context(), append([]string{"serve"}, test.args...), test.environ, &out, &out)
			if err == nil {
				t.Fatal("serve started, want an error")
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error contains the password: %v", err)
			}
			for _, says := range test.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("got %v, want it to contain %q", err, says)
				}
			}
		})
	}
}

// TestFlagsOverrideEnvironmentOverridesDefaults checks the order of precedence, and that
// variables without the prefix STOCKSTREAM_ are ignored.
func TestFlagsOverrideEnvironmentOverridesDefaults(t *testing.T) {
	t.Parallel()
	config := defaultConfig()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.addFlags(flags)
	if err := flags.Parse([]string{"--http-addr", "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"STOCKSTREAM_HTTP_ADDR=127.0.0.1:2",
		"STOCKSTREAM_ROLES=api,sagas",
		"STOCKSTREAM_BATCH_MAX=7",
		"PATH=/bin",
		"odd",
	}
	if err := readEnvironment(flags, environ); err != nil {
		t.Fatal(err)
	}
	if config.HTTPAddr != "127.0.0.1:1" {
		t.Errorf("http-addr: got %s, want the flag's 127.0.0.1:1", config.HTTPAddr)
	}
	if config.BatchMax != 7 {
		t.Errorf("batch-max: got %d, want the environment's 7", config.BatchMax)
	}
	if got := strings.Join(config.Roles, ","); got != "api,sagas" {
		t.Errorf("roles: got %s, want the environment's api,sagas", got)
	}
	if err := defaultConfig().Validate(); err != nil {
		t.Errorf("the defaults are invalid: %v", err)
	}
	if host := defaultConfig().HTTPAddr; !strings.HasPrefix(host, "127.0.0.1:") {
		t.Errorf("the default address is %s, want loopback", host)
	}
}

// TestVersionNeedsNoValidSettings checks that `stockstream version` works although a
// setting is invalid.
func TestVersionNeedsNoValidSettings(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := run(context.Background(), []string{"version"}, []string{"STOCKSTREAM_NONSENSE=1"}, &out, &out)
	if err != nil {
		t.Errorf("got error %v", err)
	}
	if !strings.HasPrefix(out.String(), "stockstream ") {
		t.Errorf("printed %q, want it to start with stockstream", out.String())
	}
}
