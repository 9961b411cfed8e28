package etcdapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"

	"github.com/chainfire/cfseed/internal/state/alarm"
)

// checkPatience bounds one check of a member's health.
const checkPatience = 7 * time.Second

// Handler answers what etcd answers over HTTP: whether this member is healthy,
// alive and ready, its version, and its metrics. It asks nobody for a password,
// and tells nothing of what is stored.
func (s *Server) Handler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics)
	mux.HandleFunc("/version", getOnly(s.version))
	mux.HandleFunc("/health", getOnly(s.healthPage))
	local := check{"serializable_read", s.checkRead(true)}
	live := []check{local}
	ready := []check{{"data_corruption", s.checkCorrupt}, local, {"linearizable_read", s.checkRead(false)}, {"non_learner", s.checkVoter}}
	for path, checks := range map[string][]check{"/livez": live, "/readyz": ready} {
		mux.HandleFunc(path, getOnly(checksPage(checks)))
		for _, c := range checks {
			mux.HandleFunc(path+"/"+c.name, getOnly(checksPage([]check{c})))
		}
	}
	return mux
}

func getOnly(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		next(w, r)
	}
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	v := version.Versions{Server: s.opts.Version, Cluster: "not_decided", Storage: "unknown"}
	if s.backend.Header().GetClusterId() != 0 {
		v.Cluster = clusterVersion(s.opts.Version)
	}
	w.Header().Set("Content-Type", "application/json")
	answerJSON(w, v)
}

// answerJSON writes what can always be encoded; a client that went away hears
// nothing.
func answerJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err == nil {
		_, _ = w.Write(b)
	}
}

// healthAnswer is that of /health, in etcd's form.
type healthAnswer struct {
	Health string `json:"health"`
	Reason string `json:"reason"`
}

// healthPage says whether this member serves: no alarm but those excluded, a
// leader, and a read that works. With serializable=true only this member counts.
func (s *Server) healthPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	reason := s.unhealthy(r.Context(), q["exclude"], q.Get("serializable") == "true")
	if reason == "" {
		answerJSON(w, healthAnswer{Health: "true"})
		return
	}
	b, err := json.Marshal(healthAnswer{Health: "false", Reason: reason})
	if err != nil {
		b = []byte(err.Error())
	}
	http.Error(w, string(b), http.StatusServiceUnavailable)
}

func (s *Server) unhealthy(ctx context.Context, exclude []string, local bool) string {
	for _, a := range s.backend.Alarms() {
		if !slices.Contains(exclude, a.GetAlarm().String()) {
			return "ALARM " + a.GetAlarm().String()
		}
	}
	if leader, _ := s.backend.Role(); leader == 0 && !local {
		return "RAFT NO LEADER"
	}
	if err := s.checkRead(local)(ctx); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}

// check is one of those behind /livez and /readyz.
type check struct {
	name string
	run  func(context.Context) error
}

// checksPage runs the checks but those excluded by name. What failed is told,
// and with verbose what did not.
func checksPage(checks []check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		var report strings.Builder
		failed := false
		for _, c := range checks {
			if len(checks) > 1 && slices.Contains(q["exclude"], c.name) {
				continue
			}
			if err := c.run(r.Context()); err != nil {
				failed = true
				fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
				continue
			}
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
		if failed {
			http.Error(w, report.String(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !q.Has("verbose") {
			report.Reset()
		}
		_, _ = w.Write([]byte(report.String() + "ok\n")) // a client that went away hears nothing
	}
}

// checkRead reads one key, from what this member has applied or after a round
// of the quorum.
func (s *Server) checkRead(local bool) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, checkPatience)
		defer cancel()
		if !local {
			if err := s.backend.ReadIndex(ctx); err != nil {
				return told(s.fail(err))
			}
		}
		_, err := s.backend.Range(ctx, &pb.RangeRequest{Key: []byte("health"), KeysOnly: true, Limit: 1, Serializable: local})
		if err != nil {
			return told(s.fail(err))
		}
		return nil
	}
}

// told is a status as its words.
func told(err error) error { return fmt.Errorf("%s", rpctypes.ErrorDesc(err)) }

func (s *Server) checkCorrupt(context.Context) error {
	if len(alarm.OfType(s.backend.Alarms(), pb.AlarmType_CORRUPT)) > 0 {
		return fmt.Errorf("alarm activated: %s", pb.AlarmType_CORRUPT)
	}
	return nil
}

func (s *Server) checkVoter(context.Context) error {
	if _, learner := s.backend.Role(); learner {
		return fmt.Errorf("not supported for learner")
	}
	return nil
}

// clusterVersion is what members of a release agree on: etcd's has no patch level.
func clusterVersion(release string) string {
	if i := strings.LastIndexByte(release, '.'); i > 0 {
		return release[:i] + ".0"
	}
	return release
}
