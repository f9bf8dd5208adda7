package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
)

// failoverTimeout is how long a replica may take until it serves in the place of a master
// that was killed.
const failoverTimeout = 10 * time.Second

// slot is the slot of the key "kept".
const slot = 284

// TestClusterPromotesAReplicaOfAKilledMaster kills a master, and checks that its replica
// serves its slots with its data, and that the master follows the replica when it starts
// again.
func TestClusterPromotesAReplicaOfAKilledMaster(t *testing.T) {
	t.Parallel()
	cluster := testenv.RedisCluster(t)
	want := "redis+cluster://"
	for i, node := range cluster.Nodes() {
		if i > 0 {
			want += ","
		}
		want += node.Addr()
	}
	if got := cluster.URL(); got != want {
		t.Errorf("URL %s, want %s", got, want)
	}
	promoted := failOver(t, clusterMaster(t, cluster), func(ctx context.Context) (*local.Redis, error) {
		return cluster.MasterOf(ctx, slot)
	})
	if got := clusterMaster(t, cluster); got != promoted {
		t.Errorf("%s serves the slot, want the promoted node %s", got.Addr(), promoted.Addr())
	}
}

// failOver writes to a master and kills it. It waits until present, which finds the
// present master, finds one that has the data and takes writes. Then it starts the killed
// node again, waits until it is a replica, and returns the promoted node.
func failOver(
	t *testing.T, master *local.Redis, present func(context.Context) (*local.Redis, error),
) (promoted *local.Redis) {
	t.Helper()
	write(t, master)
	if err := master.Kill(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, failoverTimeout, func() (bool, string) {
		var err error
		if promoted, err = present(t.Context()); err != nil {
			return false, err.Error()
		}
		return overwrite(t, promoted)
	})
	if promoted == master {
		t.Error("the killed node is still the master")
	}
	if err := master.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitReplica(t, master)
	return promoted
}

// TestSentinelsPromoteAReplicaOfAKilledMaster kills the master of three Sentinels, and
// checks that they promote a replica that has its data, that they make the master its
// replica when it starts again, and that the promoted node is still the master after a
// restart.
func TestSentinelsPromoteAReplicaOfAKilledMaster(t *testing.T) {
	t.Parallel()
	trio := testenv.RedisSentinel(t, 2)
	want := "redis+sentinel://" + trio.Sentinels[0].Addr() + "," + trio.Sentinels[1].Addr() + "," +
		trio.Sentinels[2].Addr() + "/stock"
	if got := trio.URL(); got != want {
		t.Errorf("URL %s, want %s", got, want)
	}
	promoted := failOver(t, trio.Nodes[0], trio.Master)
	if err := promoted.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := promoted.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if role := roleOf(t, promoted); role != "master" {
		t.Errorf("the promoted node is a %s after a restart, want a master", role)
	}
}

// TestAPausedServerAnswersOnlyWhenItGoesOn pauses a server and lets it go on.
func TestAPausedServerAnswersOnlyWhenItGoesOn(t *testing.T) {
	t.Parallel()
	node := testenv.Redis(t)
	if err := node.Pause(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{
		Addr:        node.Addr(),
		MaxRetries:  -1,
		ReadTimeout: 100 * time.Millisecond,
	})
	defer client.Close()
	if err := client.Ping(t.Context()).Err(); err == nil {
		t.Error("a paused server answers")
	}
	if err := node.Resume(); err != nil {
		t.Fatal(err)
	}
	if role := roleOf(t, node); role != "master" {
		t.Errorf("the server's role is %q, want master", role)
	}
}

type stopFunc func(context.Context) error

// TestNothingIsLeftRunning checks that Stop ends every process of a cluster and of
// Sentinels with their nodes, even one that was killed and one that is paused, and that a
// start that fails leaves none behind.
func TestNothingIsLeftRunning(t *testing.T) {
	t.Parallel()
	type start func(ctx context.Context, dir string) (nodes []*local.Redis, stop stopFunc, err error)
	tests := map[string]struct {
		start     start
		processes int
	}{
		"cluster": {
			start: func(ctx context.Context, dir string) ([]*local.Redis, stopFunc, error) {
				c, err := local.StartCluster(ctx, dir)
				if err != nil {
					return nil, nil, err
				}
				return c.Nodes(), c.Stop, nil
			},
			processes: 6,
		},
		"sentinel": {
			start: func(ctx context.Context, dir string) ([]*local.Redis, stopFunc, error) {
				s, err := local.StartSentinel(ctx, dir, 1)
				if err != nil {
					return nil, nil, err
				}
				return s.Nodes, s.Stop, nil
			},
			processes: 5,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			nodes, stop, err := test.start(ctx, dir)
			if err != nil {
				t.Fatal(err)
			}
			started := pids(t, dir)
			if got, want := len(started), test.processes; got != want {
				t.Errorf("%d processes have started, want %d", got, want)
			}
			if err := errors.Join(nodes[0].Kill(), nodes[1].Pause()); err != nil {
				t.Fatal(err)
			}
			if err := stop(ctx); err != nil {
				t.Error(err)
			}
			haveEnded(t, started)

			// The last step of a start is to wait until all know each other. This context
			// ends then.
			dir = t.TempDir()
			short, end := context.WithCancel(ctx)
			defer end()
			failed := make(chan struct{})
			go func() {
				defer close(failed)
				if _, stop, err := test.start(short, dir); err == nil {
					t.Errorf("a start whose context ended has succeeded (stopped: %v)", stop(ctx))
				}
			}()
			testenv.Eventually(t, time.Minute, func() (bool, string) {
				started = pids(t, dir)
				return len(started) == test.processes, "not all processes have started"
			})
			end()
			<-failed
			haveEnded(t, started)
		})
	}
}

// pids returns the ids of the processes that have started below a directory.
func pids(t *testing.T, dir string) []int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "redis.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var list []int
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(content))); err == nil {
			list = append(list, pid) // a file that is being written is empty
		}
	}
	return list
}

func haveEnded(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is left running (%v)", pid, err)
		}
	}
}

func clusterMaster(t *testing.T, cluster *local.Cluster) *local.Redis {
	t.Helper()
	master, err := cluster.MasterOf(t.Context(), slot)
	if err != nil {
		t.Fatal(err)
	}
	return master
}

// write writes a key and waits until a replica has it.
func write(t *testing.T, master *local.Redis) {
	t.Helper()
	conn := testenv.RedisClient(t, master).Conn() // WAIT is about the writes of its connection
	defer conn.Close()                            //nolint:errcheck // only a test's connection
	if err := conn.Set(t.Context(), "kept", "before", 0).Err(); err != nil {
		t.Fatal(err)
	}
	replicas, err := conn.Wait(t.Context(), 1, 5*time.Second).Result()
	if err != nil || replicas < 1 {
		t.Fatalf("%d replicas have the key (%v), want at least 1", replicas, err)
	}
}

// overwrite reports whether a node has the key that write wrote, and takes a new value.
func overwrite(t *testing.T, node *local.Redis) (ok bool, detail string) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: node.Addr(), MaxRetries: -1})
	defer client.Close()
	before, err := client.SetArgs(t.Context(), "kept", "after", redis.SetArgs{Get: true}).Result()
	if err != nil {
		return false, err.Error()
	}
	if before != "before" {
		t.Errorf("%s has %q, want before", node.Addr(), before)
	}
	return true, ""
}

// awaitReplica waits until a node is a replica that is linked to its master and has its
// data.
func awaitReplica(t *testing.T, node *local.Redis) {
	t.Helper()
	client := testenv.RedisClient(t, node)
	testenv.Eventually(t, time.Minute, func() (bool, string) {
		info := client.Info(t.Context(), "replication").Val()
		return strings.Contains(info, "role:slave\r\n") &&
			strings.Contains(info, "master_link_status:up\r\n"), info
	})
}

func roleOf(t *testing.T, node *local.Redis) string {
	t.Helper()
	role, err := testenv.RedisClient(t, node).Do(t.Context(), "role").Slice()
	if err != nil {
		t.Fatal(err)
	}
	name, _ := role[0].(string)
	return name
}
