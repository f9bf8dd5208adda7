package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestSettingsOfTheRoleChangeNothing sells, rebuilds and audits with defaults of role and
// database that would disturb each of them, and with a schema that would hide public.
func TestSettingsOfTheRoleChangeNothing(t *testing.T) {
	t.Parallel()
	s := newFixtureOn(t, testenv.PostgresServer(t).URL())
	s.exec(`
		CREATE SCHEMA app;
		ALTER DATABASE inventory SET standard_conforming_strings = off;
		ALTER DATABASE inventory SET default_transaction_read_only = on;
		ALTER ROLE app SET default_transaction_isolation = 'serializable';
		ALTER ROLE app SET statement_timeout = '5ms';
		ALTER ROLE app SET idle_session_timeout = '5ms';
		ALTER ROLE app SET idle_in_transaction_session_timeout = '5ms'`)
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	hold := v.mustReserve("shirt", "k", 1, 60)
	s.wantPost(v.url+"/holds/"+hold+"/confirm", `{"payment_ref":"p"}`, http.StatusOK)
	s.awaitCaughtUp()
	s.wantOutput("projections rebuild --all")
	s.wantOutput("audit")
	s.wantOutput("doctor", "postgres schema", "public")
	const query = `SELECT count(*) FROM pg_class WHERE relnamespace = 'app'::regnamespace`
	if made := queryValue[int](s, query); made != 0 {
		t.Errorf("the schema app has %d relations, want none", made)
	}
}

// TestServeAndDoctorRefuseAPooler checks that both name the pooler, and that serve ends
// instead of waiting for it.
func TestServeAndDoctorRefuseAPooler(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t)
	s := newFixtureOn(t, server.URL())
	for name, settings := range map[string][]string{
		"as it comes": nil,
		"transaction mode": {
			"pool_mode = transaction",
			"ignore_startup_parameters = search_path, statement_timeout, lock_timeout, idle_session_timeout, " +
				"idle_in_transaction_session_timeout, default_transaction_isolation, default_transaction_read_only",
		},
	} {
		s.dbURL = testenv.PgBouncer(t, server, settings...)
		var out bytes.Buffer
		err := run(s.ctx, []string{"serve", "--http-addr", freeAddr(t)}, s.environ(), &out, &out)
		if !errors.Is(err, postgres.ErrPooler) {
			t.Errorf("%s: serve: got %v, want ErrPooler", name, err)
		}
		s.wantError("migrate up", "PgBouncer")
		if out, _ := s.runFailing("doctor"); !strings.Contains(out, "PgBouncer") {
			t.Errorf("%s: doctor printed:\n%s\nwant it to name PgBouncer", name, out)
		}
	}
}

// TestDoctorFindsASchemaThatDoesNotExist checks that the doctor names the search_path and
// advises to create the schema.
func TestDoctorFindsASchemaThatDoesNotExist(t *testing.T) {
	t.Parallel()
	s := newFixtureOn(t, testenv.PostgresServer(t).URL())
	s.dbURL += "&search_path=nosuch"
	out, _ := s.runFailing("doctor -o json")
	var findings []finding
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, f := range findings {
		if f.Name == "postgres schema" && f.Verdict == verdictUnsafe && strings.Contains(f.Found, "nosuch") {
			return
		}
	}
	t.Errorf("printed %s, want an unsafe finding about the schema nosuch", out)
}
